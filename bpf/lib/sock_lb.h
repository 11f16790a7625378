/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From the address that a program dialled to the backend that it gets: connect() of TCP and UDP,
 * and each datagram with an address of its own. Returns a reason (enum counter); COUNT_NONE means
 * that the address is no concern of ours.
 *
 * Cost: one hash lookup for such an address, one more for a VIP (two for a node port), then
 * inlined reads of arrays. Only affinity reads a clock, the coarse one.
 */
#pragma once

#include "affinity.h"
#include "origin.h"
#include "sock_addr.h"
#include "traffic.h"

/* One connect() or one datagram. */
struct dial {
	struct ip_addr address; /* as the program gave it, but for the wildcard */
	__be16 port;
	__u8 protocol;
	bool connect;
	bool host; /* from the namespace of the proxy */
	bool loopback_source;
	enum sock_family family;
};

/* What the lookup found, all that choosing needs. */
struct choice {
	struct service service;
	const struct record *record;
	struct lb_window window;
	__u32 index; /* of the service */
	__u32 backend;
};

static __always_inline bool sock_scope_is_local(const struct dial *dial,
						const struct frontend *frontend,
						const struct record *record)
{
	__u32 shortcut =
		addr_is_ipv4(&dial->address) ? CONFIG_POD_SHORTCUT_IPV4 : CONFIG_POD_SHORTCUT_IPV6;

	if (!(frontend->flags & FRONTEND_EXTERNAL))
		return record->flags & RECORD_INTERNAL_LOCAL;
	if (!(record->flags & RECORD_EXTERNAL_LOCAL) || dial->host)
		return false;
	return !(kpb_config.flags & shortcut);
}

/*
 * Resolvers connect a UDP socket to every address of a name, to learn the source address and sort
 * by it, and send nothing. A refusal would look like an address without route. glibc uses the
 * port that was asked for (mostly one that TCP serves) or 0, Go 9, musl 65535.
 */
static __always_inline bool sock_is_address_probe(const struct dial *dial,
						  const struct frontend_key *key)
{
	struct frontend_key tcp = *key;

	if (!dial->connect || dial->protocol != KPB_IPPROTO_UDP)
		return false;
	if (!dial->port || dial->port == bpf_htons(9) || dial->port == bpf_htons(65535))
		return true;
	tcp.protocol = KPB_IPPROTO_TCP;
	return bpf_map_lookup_elem(&kpb_frontends, &tcp);
}

static __always_inline enum counter sock_unknown_port(const struct dial *dial, __u32 vip_flags,
						      const struct frontend_key *key)
{
	if ((vip_flags & (VIP_CLUSTER_IP | VIP_EXTERNAL | VIP_NODE_PORT | VIP_HOST_PORT)) !=
	    VIP_CLUSTER_IP)
		return COUNT_NONE;
	if (dial->protocol != KPB_IPPROTO_TCP && dial->protocol != KPB_IPPROTO_UDP)
		return COUNT_NONE;
	if (sock_is_address_probe(dial, key))
		return COUNT_ADDRESS_PROBE;
	return COUNT_UNKNOWN_PORT;
}

/* A backend for a new flow, into choice->backend. */
static __always_inline enum counter sock_choose(struct bpf_sock_addr *ctx, const struct dial *dial,
						struct choice *choice)
{
	bool affine = choice->record->affinity_timeout_s && !dial->loopback_source;
	struct affinity_key client = {.service = choice->index, .client_kind = CLIENT_NETNS};
	const struct backend *backend;
	__u64 netns;

	if (!choice->window.count)
		return lb_empty(choice->record, &choice->window);
	if (dial->loopback_source) {
		choice->backend = lb_host_backend(choice->window.first, choice->window.count);
		return choice->backend ? COUNT_TRANSLATED : COUNT_LOOPBACK_SOURCE;
	}
	if (affine) {
		netns = bpf_get_netns_cookie(ctx);
		__builtin_memcpy(&client.client.word[2], &netns, sizeof(netns));
		choice->backend =
			affinity_find(&client, choice->service, choice->record, &choice->window);
		if (choice->backend)
			return COUNT_AFFINITY_HIT;
	}
	choice->backend = lb_random_backend(&choice->window);
	backend = lb_backend(choice->backend);
	if (!backend)
		return COUNT_HALF_STATE;
	if (affine)
		affinity_pin(&client, choice->service, &choice->window, choice->backend, backend);
	return COUNT_TRANSLATED;
}

/* Whether the socket's flow may go on: its backend lives and still belongs to the service. */
static __always_inline bool sock_flow_stays(struct sock_flow *flow, const struct choice *choice)
{
	const struct backend *backend = lb_backend(flow->backend);

	if (!backend || backend->generation != flow->backend_generation ||
	    flow->service != choice->index)
		return false;
	if (flow->record == choice->service.record &&
	    flow->generation == choice->service.generation)
		return true;
	if (!lb_is_member(choice->record->slots, choice->record->members, flow->backend))
		return false;
	flow->record = choice->service.record;
	flow->generation = choice->service.generation;
	return true;
}

/*
 * A connected socket hears its peer alone: what it sends to the VIP by name goes there too, also
 * when the backend is gone. The socket is aborted then, as if it had named nobody.
 */
static __always_inline bool sock_is_bound_to(const struct bpf_sock_addr *ctx,
					     const struct dial *dial, const struct sock_flow *flow)
{
	return !dial->connect && flow->flags & FLOW_CONNECTED &&
	       ctx->sk->state == BPF_TCP_ESTABLISHED;
}

static __always_inline void sock_describe(struct sock_flow *flow, const struct dial *dial,
					  const struct choice *choice,
					  const struct backend *backend)
{
	flow->vip = dial->address;
	flow->vip_port = dial->port;
	flow->backend_address = backend->address;
	flow->backend_port = backend->port;
	flow->service = choice->index;
	flow->record = choice->service.record;
	flow->generation = choice->service.generation;
	flow->backend = choice->backend;
	flow->backend_generation = backend->generation;
	flow->flags = FLOW_USED | (dial->connect ? FLOW_CONNECTED : 0);
}

/* A flow in the socket for what was chosen. Without room the datagram goes all the same. */
static __always_inline void sock_remember(struct bpf_sock_addr *ctx, struct sock_state *state,
					  struct sock_flow *flow, const struct sock_flow *chosen)
{
	if (!state)
		state = bpf_sk_storage_get(&kpb_sock_state, ctx->sk, NULL,
					   BPF_SK_STORAGE_GET_F_CREATE);
	if (!state) {
		verdict_count(COUNT_ORIGIN_FULL);
		return;
	}
	if (chosen->flags & FLOW_CONNECTED)
		flow_disconnect(state);
	if (!flow)
		flow = flow_room(state, bpf_get_socket_cookie(ctx));
	*flow = *chosen;
	flow_touch(state, flow);
}

static __always_inline enum counter
sock_translate_udp(struct bpf_sock_addr *ctx, const struct dial *dial, struct choice *choice)
{
	struct sock_state *state = flow_state(ctx->sk);
	struct sock_flow chosen = {};
	struct sock_flow *flow = NULL;
	const struct backend *backend;
	enum counter reason;

	if (state)
		flow = flow_recall(state, &dial->address, dial->port, bpf_get_socket_cookie(ctx));
	if (state && flow && (sock_flow_stays(flow, choice) || sock_is_bound_to(ctx, dial, flow))) {
		if (dial->connect) {
			flow_disconnect(state);
			flow->flags |= FLOW_CONNECTED;
		}
		flow_touch(state, flow);
		sock_set_address(ctx, dial->family, &flow->backend_address, flow->backend_port);
		return COUNT_STICKY;
	}
	reason = sock_choose(ctx, dial, choice);
	backend = lb_backend(choice->backend);
	if (!backend)
		return reason;
	sock_describe(&chosen, dial, choice, backend);
	sock_remember(ctx, state, flow, &chosen);
	sock_set_address(ctx, dial->family, &chosen.backend_address, chosen.backend_port);
	return reason;
}

static __always_inline enum counter
sock_translate_tcp(struct bpf_sock_addr *ctx, const struct dial *dial, struct choice *choice)
{
	struct sock_flow chosen = {};
	const struct backend *backend;
	enum counter reason = sock_choose(ctx, dial, choice);

	backend = lb_backend(choice->backend);
	if (!backend)
		return reason;
	if (kpb_config.flags & CONFIG_TCP_ORIGIN) {
		sock_describe(&chosen, dial, choice, backend);
		origin_remember(ctx, &chosen);
	}
	sock_set_address(ctx, dial->family, &backend->address, backend->port);
	return reason;
}

/*
 * Not ours: what an earlier call left must not colour this one. A socket may also have dissolved
 * its connection meanwhile, which runs no hook.
 */
static __always_inline void sock_leave_alone(struct bpf_sock_addr *ctx, const struct dial *dial)
{
	struct sock_state *state;

	if (dial->protocol == KPB_IPPROTO_TCP) {
		origin_forget(ctx);
		return;
	}
	state = flow_state(ctx->sk);
	if (!state)
		return;
	if (dial->connect || ctx->sk->state != BPF_TCP_ESTABLISHED)
		flow_disconnect(state);
	flow_forget_backend(state, &dial->address, dial->port, bpf_get_socket_cookie(ctx));
}

/* Nothing but the hooks themselves decide this one: the answer proves that they run. */
static __always_inline enum counter sock_translate_canary(struct bpf_sock_addr *ctx,
							  const struct dial *dial)
{
	struct choice nothing = {};
	struct backend loopback = {.port = dial->port};
	struct sock_flow chosen = {};

	if (!dial->connect || dial->protocol != KPB_IPPROTO_UDP)
		return COUNT_NONE;
	loopback.address = addr_loopback(addr_is_ipv4(&dial->address));
	sock_describe(&chosen, dial, &nothing, &loopback);
	sock_remember(ctx, flow_state(ctx->sk), NULL, &chosen);
	sock_set_address(ctx, dial->family, &loopback.address, loopback.port);
	return COUNT_TRANSLATED;
}

static __always_inline enum counter sock_serve(struct bpf_sock_addr *ctx, const struct dial *dial,
					       const struct frontend *frontend)
{
	struct choice choice = {.index = frontend->service};
	enum counter reason;

	/* Only a packet shows its source as the ranges mean it: TC serves these, not we. */
	if (frontend->flags & FRONTEND_SOURCE_RANGES)
		return COUNT_SOURCE_RANGES;
	choice.service = lb_service(choice.index);
	choice.record = lb_record(choice.service);
	if (!choice.record)
		return COUNT_HALF_STATE;
	choice.window =
		lb_window(choice.record, sock_scope_is_local(dial, frontend, choice.record));
	reason = dial->protocol == KPB_IPPROTO_UDP ? sock_translate_udp(ctx, dial, &choice)
						   : sock_translate_tcp(ctx, dial, &choice);
	if (reason == COUNT_TRANSLATED || reason == COUNT_AFFINITY_HIT)
		traffic_connection(choice.index);
	return reason;
}

/* Whether the call goes on to the very address that was dialled: neither led away nor refused. */
static __always_inline bool sock_is_left_alone(enum counter reason)
{
	switch (reason) {
	case COUNT_TRANSLATED:
	case COUNT_STICKY:
	case COUNT_AFFINITY_HIT:
		return false;
	case COUNT_NO_ENDPOINTS:
	case COUNT_NO_LOCAL_ENDPOINT:
	case COUNT_UNKNOWN_PORT:
	case COUNT_HALF_STATE:
		return !kernel_has(set_retval);
	default:
		return true;
	}
}

/* What becomes of a destination that stands in the maps. */
static __always_inline enum counter sock_decide(struct bpf_sock_addr *ctx, const struct dial *dial,
						__u32 vip_flags, const struct frontend_key *key)
{
	const struct frontend *frontend;

	if (vip_flags & VIP_ON_DEVICE)
		return COUNT_ON_DEVICE;
	if (vip_flags & VIP_LOOPBACK && !dial->host)
		return COUNT_NONE;
	if (vip_flags & VIP_CANARY)
		return sock_translate_canary(ctx, dial);
	frontend = lb_frontend(vip_flags, key);
	if (frontend)
		return sock_serve(ctx, dial, frontend);
	return sock_unknown_port(dial, vip_flags, key);
}

static __always_inline enum counter sock_translate(struct bpf_sock_addr *ctx,
						   const struct dial *dial)
{
	struct frontend_key key = {
		.address = lb_vip_address(&dial->address),
		.port = dial->port,
		.protocol = dial->protocol,
	};
	const struct vip *vip = bpf_map_lookup_elem(&kpb_vips, &key.address);
	enum counter reason = vip ? sock_decide(ctx, dial, vip->flags, &key) : COUNT_NONE;

	if (sock_is_left_alone(reason))
		sock_leave_alone(ctx, dial);
	return reason;
}
