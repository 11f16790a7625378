/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The way back: the backend's address is shown as the VIP that the socket spoke to. */
#pragma once

#include "sock_flow.h"
#include "sock_addr.h"

static __always_inline bool reply_from_spilled(struct bpf_sock_addr *ctx, enum sock_family family,
					       const struct ip_addr *backend, __be16 port)
{
	struct sock_flow_key key = flow_key(bpf_get_socket_cookie(ctx), backend, port, FLOW_REPLY);
	const struct sock_spill *spill = bpf_map_lookup_elem(&kpb_sock_flows, &key);
	struct sock_flow flow;

	if (!spill)
		return false;
	flow = spill->flow;
	if (!flow_leads_to(&flow, backend, port)) /* the LRU gave the element away meanwhile */
		return false;
	sock_set_address(ctx, family, &flow.vip, flow.vip_port);
	return true;
}

/* The peer of a connected socket with socket storage: UDP, MPTCP. */
static __always_inline bool reply_of_peer(struct bpf_sock_addr *ctx, enum sock_family family)
{
	struct sock_state *state = flow_state(ctx->sk);
	struct ip_addr backend;
	__be16 port;

	if (!state)
		return false;
	backend = sock_address(ctx, family);
	port = sock_port(ctx);
#pragma unroll
	for (int i = 0; i < SOCK_FLOWS; i++) {
		const struct sock_flow *flow = &state->flow[i];

		if (!(flow->flags & FLOW_CONNECTED) || !flow_leads_to(flow, &backend, port))
			continue;
		sock_set_address(ctx, family, &flow->vip, flow->vip_port);
		return true;
	}
	return false;
}

/* The source of a datagram that was received. */
static __always_inline bool reply_of_datagram(struct bpf_sock_addr *ctx, enum sock_family family)
{
	struct sock_state *state = flow_state(ctx->sk);
	const struct sock_flow *flow;
	struct ip_addr backend;
	__be16 port;

	if (!state)
		return false;
	/* A connected socket hears its peer alone, whoever else leads to it. */
	if (ctx->sk->state == BPF_TCP_ESTABLISHED && reply_of_peer(ctx, family))
		return true;
	backend = sock_address(ctx, family);
	port = sock_port(ctx);
	flow = flow_find_reply(state, &backend, port);
	if (flow) {
		sock_set_address(ctx, family, &flow->vip, flow->vip_port);
		return true;
	}
	return state->spilled_port && reply_from_spilled(ctx, family, &backend, port);
}

/* The peer of a TCP socket. */
static __always_inline bool reply_of_origin(struct bpf_sock_addr *ctx, enum sock_family family)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	const struct origin *origin;

	if (!(kpb_config.flags & CONFIG_TCP_ORIGIN))
		return false;
	origin = bpf_map_lookup_elem(&kpb_tcp_origin, &cookie);
	if (!origin)
		return false;
	sock_set_address(ctx, family, &origin->address, origin->port);
	return true;
}
