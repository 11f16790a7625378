/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The ways out of a translated packet: on through the stack, straight out of a device, or to a
 * socket of this host. The route is asked before anything is changed, so that a packet that
 * cannot go is answered, or left to TC, as the client sent it.
 */
#pragma once

#include "nat.h"
#include "rewrite.h"
#include "traffic.h"
#ifndef KPB_XDP
#include "icmp.h"
#include "reject.h"
#endif

/* Packets that start on this host have come no way yet. */
static __always_inline bool out_is_own(context *ctx, const struct flow *flow)
{
	return flow->flags & TRACK_EGRESS || ctx_ifindex(ctx) == LOOPBACK;
}

/* What goes on its way, for its Service; of two pairs the first counts. */
static __noinline int out_count(context *ctx, const struct packet *p, const struct flow *flow)
{
	if (!track_is_second(flow))
		traffic_packets(flow->flags & TRACK_REPLY ? flow->record : flow->service,
				ctx_packets(ctx), ctx_length(ctx) - p->l3);
	return 0;
}

static __always_inline int out_counted(context *ctx, const struct packet *p,
				       const struct flow *flow)
{
	return kpb_config.flags & CONFIG_SERVICE_TRAFFIC ? out_count(ctx, p, flow) : 0;
}

#ifndef KPB_XDP

enum { OUT_LEAVE = TC_ACT_UNSPEC, OUT_DROP = TC_ACT_SHOT };
enum { PACKET_FOR_HOST = 0 };

static __always_inline int out_rewrite(context *ctx, struct packet *p, const struct flow *flow)
{
	if (p->inner_l3 ? icmp_rewrite(ctx, p, flow) : rewrite(ctx, p, flow))
		return -1;
	return out_counted(ctx, p, flow);
}

/*
 * What undoes the change of destination, should netfilter masquerade the packet before we do. If
 * the answers of another flow come by this key, they stay that flow's.
 */
static __always_inline long out_note_answer(const struct packet *p, const struct flow *flow,
					    struct track_pair *pair)
{
	long error;

	pair->partner_key = track_reverse(&pair->key);
	pair->partner = *flow;
	pair->partner.source = p->tuple.destination;
	pair->partner.source_port = p->tuple.destination_port;
	pair->partner.destination = p->tuple.source;
	pair->partner.destination_port = p->tuple.source_port;
	pair->partner.flags = TRACK_EGRESS | TRACK_REPLY;
	pair->partner.record = flow->service;
	pair->partner.ifindex = 0;
	pair->partner.state = STATE_OTHER;
	error = track_put_alone(&pair->partner_key, &pair->partner);
	return error == -KPB_EEXIST ? 0 : error;
}

/*
 * Too large for the way straight out, and the sender allows fragments: the stack makes them. So
 * that only the destination changes before it, an entry of its own finishes the work behind it.
 */
static __noinline int out_through_stack(context *ctx, struct packet *p, struct flow *flow)
{
	struct scratch *work = scratch();
	struct track_pair *pair;

	if (!work)
		return OUT_DROP;
	pair = &work->pair[1];
	p->through_stack = true;
	if (p->fragment == FRAGMENT_FIRST) /* all of a datagram goes one way */
		packet_remember_fragment(p);
	pair->key = p->tuple;
	pair->key.destination = flow->destination;
	pair->key.destination_port = flow->destination_port;
	pair->flow = *flow;
	pair->flow.flags = TRACK_EGRESS;
	pair->flow.state = STATE_OTHER;
	if (track_put_alone(&pair->key, &pair->flow))
		return OUT_DROP;
	if (!(flow->flags & TRACK_REPLY) && out_note_answer(p, flow, pair))
		return OUT_DROP;
	flow->source = p->tuple.source;
	flow->source_port = p->tuple.source_port;
	ctx->mark |= kpb_config.forward_mark;
	return out_rewrite(ctx, p, flow) ? OUT_DROP : OUT_LEAVE;
}

static __always_inline int out_too_big(context *ctx, struct packet *p, struct flow *flow, __u32 mtu)
{
	if (p->inner_l3)
		return OUT_DROP;
	/* What starts on this host has been through the stack: its socket makes the fragments. */
	if (p->ipv4 && p->may_fragment && !(flow->flags & TRACK_DSR) && !out_is_own(ctx, flow))
		return out_through_stack(ctx, p, flow);
	verdict_count(COUNT_TOO_BIG);
	return reject_too_big(ctx, p, mtu, flow->flags & TRACK_EGRESS);
}

/*
 * By the kernel's own routing from the device on, neighbour included. The helper drops packets
 * that lack an Ethernet header: those of other devices are lent one.
 */
static __always_inline int out_neighbour(context *ctx, const struct packet *p, __u32 ifindex,
					 struct bpf_redir_neigh *hop)
{
	if (!p->l3 && bpf_skb_change_head(ctx, ETH_HLEN, 0))
		return OUT_DROP;
	ctx_finish(ctx);
	return bpf_redirect_neigh(ifindex, hop, hop ? sizeof(*hop) : 0, 0);
}

static __always_inline bool out_knows_mac(const struct route *route)
{
	return route->own_mac[0] | route->own_mac[1] | route->own_mac[2] | route->own_mac[3] |
	       route->own_mac[4] | route->own_mac[5];
}

/* The kernel drops what is for the other end of a device that has none, as that of a machine. */
static __always_inline bool out_has_peer(__u32 ifindex)
{
	const struct device *device = bpf_map_lookup_elem(&kpb_devices, &ifindex);

	return device && device->flags & DEVICE_PEER;
}

/* A device that went is forgotten by user space: then the routes say where packets go. */
static __always_inline bool out_is_gone(__u32 ifindex)
{
	return !bpf_map_lookup_elem(&kpb_devices, &ifindex);
}

/* The next hop is known: the frame is finished here. */
static __always_inline int out_frame(context *ctx, const struct flow *flow,
				     const struct route *route)
{
	if (bpf_skb_store_bytes(ctx, 0, route->mac, 12, 0))
		return OUT_DROP;
	if (kpb_config.flags & CONFIG_REDIRECT_PEER && kernel_has(redirect_peer) &&
	    !(flow->flags & (TRACK_REPLY | TRACK_EGRESS)) && out_has_peer(route->ifindex))
		return bpf_redirect_peer(route->ifindex, 0);
	ctx_finish(ctx);
	return bpf_redirect(route->ifindex, 0);
}

/* Back to where the client's packet came from, which the routes do not know. */
static __noinline int out_back(context *ctx, const struct packet *p, const struct flow *flow)
{
	__u32 mac[2] = {flow->backend, flow->service}, ifindex = flow->ifindex;
	const struct device *device = bpf_map_lookup_elem(&kpb_devices, &ifindex);
	struct ethhdr eth = {};

	if (!device || !(device->flags & DEVICE_ETHERNET) || !(mac[0] | mac[1]) || !p->l3)
		return out_neighbour(ctx, p, ifindex, NULL);
	__builtin_memcpy(eth.h_dest, mac, sizeof(eth.h_dest));
	__builtin_memcpy(eth.h_source, device->mac, sizeof(eth.h_source));
	if (bpf_skb_store_bytes(ctx, 0, &eth, offsetof(struct ethhdr, h_proto), 0))
		return OUT_DROP;
	ctx_finish(ctx);
	return bpf_redirect(ifindex, 0);
}

static __always_inline int out_next_hop(context *ctx, const struct packet *p,
					const struct route *route)
{
	bool ipv4 = addr_is_ipv4(&route->next_hop); /* that of an IPv4 route may be IPv6 */
	struct bpf_redir_neigh hop = {.nh_family = ipv4 ? KPB_AF_INET : KPB_AF_INET6};

	if (ipv4)
		hop.ipv4_nh = route->next_hop.word[3];
	else
		__builtin_memcpy(hop.ipv6_nh, &route->next_hop, sizeof(hop.ipv6_nh));
	return out_neighbour(ctx, p, route->ifindex, &hop);
}

static __noinline int out_direct(context *ctx, struct packet *p, struct flow *flow)
{
	struct route route = {};
	long found = route_find(ctx, p, flow, &route);
	bool own = out_is_own(ctx, flow);
	__u32 ifindex = flow->ifindex;

	/* What a route wraps into another packet only the stack can. Answers know a way back. */
	if (p->through_stack || (found == BPF_FIB_LKUP_RET_UNSUPP_LWT && !own && !ifindex &&
				 !(flow->flags & TRACK_DSR)))
		return out_through_stack(ctx, p, flow);
	if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return out_too_big(ctx, p, flow, route.mtu);
	if (!route_is_found(found) && !ifindex) {
		verdict_count(COUNT_NO_ROUTE);
		return OUT_DROP;
	}
	if (!own && p->hops <= 1) {
		verdict_count(COUNT_HOP_LIMIT);
		return OUT_DROP;
	}
	if (!own && rewrite_hops(ctx, p))
		return OUT_DROP;
	if (flow->flags & TRACK_DSR) {
		out_counted(ctx, p, flow);
		return out_next_hop(ctx, p, &route);
	}
	if (out_rewrite(ctx, p, flow))
		return OUT_DROP;
	if (route_is_found(found) && ifindex && ifindex != route.ifindex && out_is_gone(ifindex))
		ifindex = 0;
	if (ifindex && (!route_is_found(found) || ifindex != route.ifindex))
		return out_back(ctx, p, flow);
	if (found == BPF_FIB_LKUP_RET_SUCCESS && p->l3 && out_knows_mac(&route))
		return out_frame(ctx, flow, &route);
	return out_neighbour(ctx, p, ifindex ? ifindex : route.ifindex, NULL);
}

/*
 * Attaches the local route to the packet: neither its source nor the device it came by is judged
 * again.
 */
static __always_inline int out_host(context *ctx, struct packet *p, const struct flow *flow)
{
	if (out_rewrite(ctx, p, flow))
		return OUT_DROP;
	/* A bridge's port takes what is for the bridge for somebody else's. */
	bpf_skb_change_type(ctx, PACKET_FOR_HOST);
	return out_neighbour(ctx, p, LOOPBACK, NULL);
}

static __always_inline int out_stack(context *ctx, struct packet *p, const struct flow *flow)
{
	if (out_rewrite(ctx, p, flow))
		return OUT_DROP;
	if (flow->flags & TRACK_EGRESS && flow->ifindex && flow->ifindex != ctx_ifindex(ctx) &&
	    !out_is_gone(flow->ifindex))
		return out_back(ctx, p, flow);
	if (flow->flags & TRACK_EGRESS)
		ctx_finish(ctx);
	else
		ctx->mark |= kpb_config.forward_mark;
	return OUT_LEAVE;
}

#else

enum { OUT_LEAVE = XDP_PASS, OUT_DROP = XDP_DROP };

/* Not for another host, whose frames a device also gives us when it listens to all. */
static __always_inline bool out_is_for_us(context *ctx)
{
	__u32 ifindex = ctx_ifindex(ctx);
	const struct device *device = bpf_map_lookup_elem(&kpb_devices, &ifindex);

	return device && ctx_goes_to(ctx, device->mac);
}

/* Whatever is not plain goes up untouched: TC finds the same flow and can do more. */
static __noinline int out_direct(context *ctx, struct packet *p, struct flow *flow)
{
	struct route route = {};
	const struct device *device;
	struct ethhdr *eth;

	if (!out_is_for_us(ctx) || flow->flags & TRACK_DSR || p->hops <= 1 ||
	    route_find(ctx, p, flow, &route) != BPF_FIB_LKUP_RET_SUCCESS ||
	    (flow->ifindex && flow->ifindex != route.ifindex))
		return OUT_LEAVE;
	if (route.ifindex != ctx_ifindex(ctx)) {
		device = bpf_map_lookup_elem(&kpb_devices, &route.ifindex);
		if (!device || !(device->flags & DEVICE_XDP_TARGET))
			return OUT_LEAVE;
	}
	if (rewrite(ctx, p, flow) || rewrite_hops(ctx, p) || out_counted(ctx, p, flow))
		return OUT_DROP;
	eth = ctx_at(ctx, 0, sizeof(*eth));
	if (!eth)
		return OUT_DROP;
	__builtin_memcpy(eth->h_dest, route.mac, sizeof(eth->h_dest));
	__builtin_memcpy(eth->h_source, route.own_mac, sizeof(eth->h_source));
	return route.ifindex == ctx_ifindex(ctx) ? XDP_TX : bpf_redirect(route.ifindex, 0);
}

static __always_inline int out_host(context *ctx, struct packet *p, const struct flow *flow)
{
	(void)ctx, (void)p, (void)flow;
	return OUT_LEAVE;
}

/*
 * Up the stack with its new destination. Not to the host itself: TC would look at the packet
 * again, by an address that it serves. Nor where a mark is wanted, which XDP cannot set.
 */
static __always_inline int out_stack(context *ctx, struct packet *p, const struct flow *flow)
{
	if (flow->flags & TRACK_HOST || kpb_config.forward_mark || !out_is_for_us(ctx))
		return OUT_LEAVE;
	return rewrite(ctx, p, flow) || out_counted(ctx, p, flow) ? OUT_DROP : OUT_LEAVE;
}

#endif

/* By the flow that the packet follows, or by the one that it has just opened. */
__weak __noinline int BY_LAYER(out)(context *ctx, __u32 opened)
{
	struct scratch *work = scratch();
	struct packet *p;
	struct flow *flow;

	if (!work)
		return OUT_DROP;
	p = &work->packet;
	flow = opened ? &work->pair[0].flow : &work->flow;
	if (p->fragment == FRAGMENT_FIRST)
		packet_remember_fragment(p);
	if (flow->flags & TRACK_HOST && flow->flags & TRACK_DIRECT)
		return out_host(ctx, p, flow);
	if (flow->flags & TRACK_DIRECT)
		return out_direct(ctx, p, flow);
	return out_stack(ctx, p, flow);
}
