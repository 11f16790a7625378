/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the kernel's routes say, and with which of the node's addresses a packet leaves. */
#pragma once

#include "track.h"

struct route {
	struct ip_addr next_hop;
	__u32 ifindex;
	__u32 mtu; /* of a packet that does not fit */
	__u8 mac[6];
	__u8 own_mac[6];
};

static __always_inline void route_ask(const struct ip_addr *source, const struct ip_addr *to,
				      bool ipv4, struct bpf_fib_lookup *ask)
{
	if (ipv4) {
		ask->family = KPB_AF_INET;
		ask->ipv4_src = source->word[3];
		ask->ipv4_dst = to->word[3];
		return;
	}
	ask->family = KPB_AF_INET6;
	__builtin_memcpy(ask->ipv6_src, source, sizeof(*source));
	__builtin_memcpy(ask->ipv6_dst, to, sizeof(*to));
}

/*
 * What the kernel said a moment ago, for as long as a tick lasts: asking it costs more than all the
 * rest of an established packet. The longest packet that may pass stands in the route's `mtu`.
 */
struct route_memory {
	struct ip_addr source;
	struct ip_addr destination;
	struct route route;
	__u32 ifindex; /* by which the packet came */
	__u32 tick;
};

enum { ROUTE_MEMORY_BITS = 10 };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1 << ROUTE_MEMORY_BITS);
	__type(key, __u32);
	__type(value, struct route_memory);
} kpb_route_memory SEC(".maps") __weak;

static __always_inline struct route_memory *route_memory(const struct flow *to)
{
	__u32 place = to->destination.word[3] ^ to->destination.word[1] ^ to->source.word[3];

	place = place * 0x9e3779b1 >> (32 - ROUTE_MEMORY_BITS);
	return bpf_map_lookup_elem(&kpb_route_memory, &place);
}

/* By hand: the compiler would make a memcmp() of it. */
static __always_inline bool route_is_of(const struct route_memory *memory, const struct flow *to)
{
	__u32 difference = 0;

	for (int i = 0; i < 4; i++) {
		difference |= memory->source.word[i] ^ to->source.word[i];
		difference |= memory->destination.word[i] ^ to->destination.word[i];
	}
	return !difference;
}

static __always_inline bool route_is_fresh(const struct route_memory *memory, const struct flow *to,
					   __u32 ifindex, __u32 now)
{
	return memory->tick == now && memory->ifindex == ifindex && route_is_of(memory, to);
}

static __always_inline long route_ask_kernel(context *ctx, const struct packet *p,
					     const struct flow *to, struct route *route)
{
	struct bpf_fib_lookup ask = {.ifindex = ctx_ifindex(ctx), .tot_len = p->length};
	long found;

	route_ask(&to->source, &to->destination, p->ipv4, &ask);
	found = bpf_fib_lookup(ctx, &ask, sizeof(ask), 0);
	route->ifindex = ask.ifindex;
	route->mtu = ask.mtu_result;
	if (ask.family == KPB_AF_INET)
		route->next_hop = addr_from_ipv4(ask.ipv4_dst);
	else
		__builtin_memcpy(&route->next_hop, ask.ipv6_dst, sizeof(route->next_hop));
	__builtin_memcpy(route->mac, ask.dmac, sizeof(route->mac));
	__builtin_memcpy(route->own_mac, ask.smac, sizeof(route->own_mac));
	return found;
}

/*
 * BPF_FIB_LKUP_RET_*. The packet's length is checked against the route's MTU. The answer is whole
 * if the neighbour is known (SUCCESS), and lacks the MACs if it is not (NO_NEIGH).
 */
static __noinline long route_find(context *ctx, const struct packet *p, const struct flow *to,
				  struct route *route)
{
	struct route_memory *memory = route_memory(to);
	__u32 ifindex = ctx_ifindex(ctx), now = track_now();
	long found;

	if (memory && route_is_fresh(memory, to, ifindex, now) && p->length &&
	    p->length <= memory->route.mtu) {
		*route = memory->route;
		return BPF_FIB_LKUP_RET_SUCCESS;
	}
	found = route_ask_kernel(ctx, p, to, route);
	if (!memory || found != BPF_FIB_LKUP_RET_SUCCESS)
		return found;
	memory->source = to->source;
	memory->destination = to->destination;
	memory->route = *route;
	memory->ifindex = ifindex;
	memory->tick = now;
	return found;
}

static __always_inline bool route_is_found(long found)
{
	return found == BPF_FIB_LKUP_RET_SUCCESS || found == BPF_FIB_LKUP_RET_NO_NEIGH;
}

/* The device that a packet from `to->source` to `to->destination` leaves by, or 0. */
static __always_inline __u32 route_device(context *ctx, const struct packet *p,
					  const struct flow *to)
{
	const struct route_memory *memory = route_memory(to);
	struct bpf_fib_lookup ask = {.ifindex = ctx_ifindex(ctx)};

	if (memory && route_is_fresh(memory, to, ask.ifindex, track_now()))
		return memory->route.ifindex;
	route_ask(&to->source, &to->destination, p->ipv4, &ask);
	return route_is_found(bpf_fib_lookup(ctx, &ask, sizeof(ask), 0)) ? ask.ifindex : 0;
}

/* The node's address on the device that leads to `to->destination`; it becomes `to->source`. */
static __noinline int route_own_address(context *ctx, const struct packet *p, struct flow *to)
{
	const struct device *device;
	const struct node *node;
	__u32 index = 0;

	node = bpf_map_lookup_elem(&kpb_node, &index);
	if (!node)
		return -1;
	to->source = p->ipv4 ? node->ipv4 : node->ipv6;
	index = route_device(ctx, p, to);
	device = bpf_map_lookup_elem(&kpb_devices, &index);
	if (device && addr_is_set(p->ipv4 ? &device->ipv4 : &device->ipv6))
		to->source = p->ipv4 ? device->ipv4 : device->ipv6;
	return addr_is_set(&to->source) ? 0 : -1;
}
