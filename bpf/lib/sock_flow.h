/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a UDP socket remembers: per VIP and port one backend, so that all datagrams of a socket go
 * to the same one and answers can be shown in the name of the VIP.
 *
 * SOCK_FLOWS flows live in the socket and die with it. With more VIPs the one unused for longest
 * moves to a shared LRU, chained so that a closing socket removes what it left there; what stands
 * in the socket takes precedence over its older copy in the LRU. The hooks run under the
 * socket's lock, so plain loads and stores do.
 */
#pragma once

#include "addr.h"
#include "verdict.h"

/* How many spilled flows a closing socket removes; more than that age out of the LRU. */
enum { FLOW_CHAIN_MAX = 65536, FLOW_CHAIN_BOUND = 32 };

static __always_inline struct sock_state *flow_state(void *sk)
{
	return bpf_sk_storage_get(&kpb_sock_state, sk, NULL, 0);
}

static __always_inline bool flow_is(const struct sock_flow *flow, const struct ip_addr *vip,
				    __be16 port)
{
	return flow->flags & FLOW_USED && flow->vip_port == port && addr_equal(&flow->vip, vip);
}

static __always_inline bool flow_leads_to(const struct sock_flow *flow,
					  const struct ip_addr *backend, __be16 port)
{
	return flow->flags & FLOW_USED && flow->backend_port == port &&
	       addr_equal(&flow->backend_address, backend);
}

static __always_inline struct sock_flow *flow_find(struct sock_state *state,
						   const struct ip_addr *vip, __be16 port)
{
#pragma unroll
	for (int i = 0; i < SOCK_FLOWS; i++)
		if (flow_is(&state->flow[i], vip, port))
			return &state->flow[i];
	return NULL;
}

/* Two VIPs may share a backend: the one used last is the one that is answered. */
static __always_inline struct sock_flow *flow_find_reply(struct sock_state *state,
							 const struct ip_addr *backend, __be16 port)
{
	struct sock_flow *newest = NULL;

#pragma unroll
	for (int i = 0; i < SOCK_FLOWS; i++) {
		struct sock_flow *flow = &state->flow[i];

		if (flow_leads_to(flow, backend, port) &&
		    (!newest || (__s32)(flow->last_use - newest->last_use) > 0))
			newest = flow;
	}
	return newest;
}

static __always_inline struct sock_flow_key flow_key(__u64 cookie, const struct ip_addr *address,
						     __be16 port, enum flow_direction direction)
{
	return (struct sock_flow_key){
		.cookie = cookie, .address = *address, .port = port, .direction = direction};
}

/* Move a flow out to the LRU, under the address sent to and the address heard from. */
static __noinline void flow_spill(struct sock_state *state, const struct sock_flow *flow,
				  __u64 cookie)
{
	struct sock_flow_key forward = flow_key(cookie, &flow->vip, flow->vip_port, FLOW_FORWARD);
	struct sock_flow_key reply;
	struct sock_spill spill = {.flow = *flow};
	const struct sock_spill *older = bpf_map_lookup_elem(&kpb_sock_flows, &forward);

	verdict_count(COUNT_FLOW_OVERFLOW);
	if (older) { /* in the chain already */
		reply = flow_key(cookie, &older->flow.backend_address, older->flow.backend_port,
				 FLOW_REPLY);
		spill.next = older->next;
		spill.next_port = older->next_port;
		bpf_map_delete_elem(&kpb_sock_flows, &reply);
	} else {
		spill.next = state->spilled;
		spill.next_port = state->spilled_port;
		state->spilled = flow->vip;
		state->spilled_port = flow->vip_port;
	}
	bpf_map_update_elem(&kpb_sock_flows, &forward, &spill, BPF_ANY);
	reply = flow_key(cookie, &flow->backend_address, flow->backend_port, FLOW_REPLY);
	bpf_map_update_elem(&kpb_sock_flows, &reply, &spill, BPF_ANY);
}

/*
 * A place for a new flow: a free one, else that of the flow unused for longest. The connected
 * flow stays: getpeername looks for it here.
 */
static __always_inline struct sock_flow *flow_room(struct sock_state *state, __u64 cookie)
{
	struct sock_flow *oldest = NULL;

#pragma unroll
	for (int i = 0; i < SOCK_FLOWS; i++) {
		struct sock_flow *flow = &state->flow[i];

		if (!(flow->flags & FLOW_USED))
			return flow;
		if (flow->flags & FLOW_CONNECTED)
			continue;
		if (!oldest || (__s32)(flow->last_use - oldest->last_use) < 0)
			oldest = flow;
	}
	if (!oldest) /* cannot be: one flow at most is connected */
		return &state->flow[0];
	flow_spill(state, oldest, cookie);
	return oldest;
}

/* Find the flow to a VIP in the socket, or bring it back from the LRU. */
static __always_inline struct sock_flow *
flow_recall(struct sock_state *state, const struct ip_addr *vip, __be16 port, __u64 cookie)
{
	struct sock_flow *flow = flow_find(state, vip, port);
	struct sock_flow_key key;
	struct sock_spill *spill;
	struct sock_flow recalled;

	if (flow || !state->spilled_port)
		return flow;
	key = flow_key(cookie, vip, port, FLOW_FORWARD);
	spill = bpf_map_lookup_elem(&kpb_sock_flows, &key);
	if (!spill)
		return NULL;
	recalled = spill->flow;
	if (!flow_is(&recalled, vip, port)) /* the LRU gave the element away meanwhile */
		return NULL;
	flow = flow_room(state, cookie);
	*flow = recalled;
	return flow;
}

static __always_inline void flow_touch(struct sock_state *state, struct sock_flow *flow)
{
	flow->last_use = ++state->turn;
}

/* The socket connects: whatever it was connected to before is history. */
static __always_inline void flow_disconnect(struct sock_state *state)
{
#pragma unroll
	for (int i = 0; i < SOCK_FLOWS; i++)
		state->flow[i].flags &= ~FLOW_CONNECTED;
}

/*
 * The socket speaks to this address directly: its answers must show the address itself. Not so
 * for a connection through a VIP: an IPv6 socket that is connected to an IPv4 peer names the peer
 * in each datagram, inside the kernel, and that is our backend.
 */
static __always_inline void flow_forget_backend(struct sock_state *state,
						const struct ip_addr *backend, __be16 port,
						__u64 cookie)
{
	struct sock_flow_key key;

#pragma unroll
	for (int i = 0; i < SOCK_FLOWS; i++)
		if (flow_leads_to(&state->flow[i], backend, port) &&
		    !(state->flow[i].flags & FLOW_CONNECTED))
			state->flow[i].flags = 0;
	if (!state->spilled_port)
		return;
	key = flow_key(cookie, backend, port, FLOW_REPLY);
	bpf_map_delete_elem(&kpb_sock_flows, &key);
}

struct flow_chain {
	struct sock_flow_key key;
};

static long flow_unchain(__u32 step, struct flow_chain *chain)
{
	struct sock_spill *spill = bpf_map_lookup_elem(&kpb_sock_flows, &chain->key);
	struct sock_flow_key reply, forward = chain->key;

	(void)step;
	if (!spill)
		return 1;
	reply = flow_key(forward.cookie, &spill->flow.backend_address, spill->flow.backend_port,
			 FLOW_REPLY);
	chain->key.address = spill->next;
	chain->key.port = spill->next_port;
	bpf_map_delete_elem(&kpb_sock_flows, &reply);
	bpf_map_delete_elem(&kpb_sock_flows, &forward);
	return !chain->key.port;
}

/* The socket closes: remove what it left in the LRU. */
static __always_inline void flow_remove_spilled(const struct sock_state *state, __u64 cookie)
{
	struct flow_chain chain = {};

	if (!state->spilled_port)
		return;
	chain.key = flow_key(cookie, &state->spilled, state->spilled_port, FLOW_FORWARD);
	if (kernel_has(loop)) {
		bpf_loop(FLOW_CHAIN_MAX, flow_unchain, &chain, 0);
	} else {
		for (int i = 0; i < FLOW_CHAIN_BOUND; i++)
			if (flow_unchain(i, &chain))
				break;
	}
}
