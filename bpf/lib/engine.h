/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The life of a packet: parse → VIP → flow, or new flow → translate → out. The one piece of code
 * behind every packet program; what a program is made for are constants of the call.
 */
#pragma once

#include "leave.h"
#include "over.h"
#include "parse.h"

/* enum packet_kind */
__weak __noinline int BY_LAYER(engine_parse)(context *ctx, __u32 ethernet)
{
	struct scratch *work = scratch();

	return work ? packet_parse(ctx, &work->packet, ethernet) : PACKET_OTHER;
}

/*
 * Once a tick: the client's packets may come another way than when the flow was made. Never from a
 * pod of this node: it would be in the client's name, and get the client's answers.
 */
static __noinline void engine_note_way(context *ctx, const struct packet *p,
				       const struct flow *copy)
{
	struct tuple partner_key = track_partner_key(&p->tuple, copy);
	struct flow *reply = bpf_map_lookup_elem(&kpb_flows, &partner_key);
	__u32 ifindex = ctx_ifindex(ctx);
	const struct device *device = bpf_map_lookup_elem(&kpb_devices, &ifindex);

	if (device && device->flags & DEVICE_POD)
		return;
	if (reply && reply->ifindex && reply->flags & TRACK_REPLY)
		nat_note_way(ctx, p, reply);
}

static __always_inline bool engine_leads_back(const struct flow *copy, __u32 now)
{
	__u32 others = TRACK_REPLY | TRACK_PASS | TRACK_EGRESS | TRACK_ALONE;

	return !(copy->flags & others) && over_is_new_tick(copy, now);
}

/* A packet of a flow. */
static __always_inline int engine_follow(context *ctx, const struct packet *p, struct flow *flow,
					 const struct flow *copy, __u32 now)
{
	if (p->inner_l3) {
		verdict_count(COUNT_ICMP_ERROR);
	} else {
		if (engine_leads_back(copy, now))
			engine_note_way(ctx, p, copy);
		track_seen(p, flow, copy, now);
	}
	if (copy->flags & TRACK_PASS)
		return OUT_LEAVE;
	return BY_LAYER(out)(ctx, false);
}

#ifndef KPB_XDP

/*
 * Somebody sends from an address of the host and a port that is a node port, a socket or
 * netfilter for a pod: the answers are not for the node port.
 */
static __noinline void engine_note_own(const struct packet *p)
{
	struct scratch *work = scratch();
	struct request r = {.egress = true};
	struct backend peer = {.address = p->tuple.destination, .port = p->tuple.destination_port};

	if (!work || !serve_opens(p) || !serve_is_local_address(&p->tuple.source))
		return;
	nat_describe(p, &r, &peer, &work->pair[0]);
	work->pair[0].flow.flags |= TRACK_PASS;
	work->pair[0].partner.flags |= TRACK_PASS;
	track_make(&work->pair[0]);
}

#endif

static __always_inline int engine_strange(enum packet_kind kind)
{
#ifndef KPB_XDP
	if (kind == PACKET_MALFORMED)
		verdict_count(COUNT_MALFORMED);
#endif
	(void)kind;
	return OUT_LEAVE;
}

/* A pod's device may be the port of a bridge: what is for the bridge is for another there. */
static __always_inline bool engine_is_bridged(context *ctx)
{
	__u32 ifindex = ctx_ifindex(ctx);
	const struct device *device = bpf_map_lookup_elem(&kpb_devices, &ifindex);

	return device && device->flags & DEVICE_POD && ctx_goes_to(ctx, device->mac);
}

enum { PEEK_UNKNOWN = -1, PEEK_LEAVE = -2 };

/*
 * The destination of an IPv4 frame before anything else of it is looked at: most packets are of no
 * concern. The flags of the VIP, or enum above.
 */
static __noinline int engine_peek(context *ctx)
{
	const struct ethhdr *eth = ctx_at(ctx, 0, sizeof(*eth) + sizeof(struct iphdr));
	struct ip_addr address;
	const struct vip *vip;

	if (!eth || eth->h_proto != bpf_htons(ETH_P_IP) || ctx_ifindex(ctx) == LOOPBACK)
		return PEEK_UNKNOWN;
	address = addr_from_ipv4(((const struct iphdr *)(eth + 1))->daddr);
	vip = bpf_map_lookup_elem(&kpb_vips, &address);
	if (vip)
		return vip->flags & 0xffff;
	return kpb_config.flags & CONFIG_REDIRECT_PEER ? PEEK_UNKNOWN : PEEK_LEAVE;
}

/* Of the VIP that the packet goes to; 0 if it is none. */
static __noinline int engine_vip_flags(context *ctx, const struct packet *p)
{
	struct ip_addr address = p->tuple.destination;
	const struct vip *vip;

	if (ctx_ifindex(ctx) == LOOPBACK)
		address = lb_vip_address(&address);
	vip = bpf_map_lookup_elem(&kpb_vips, &address);
	return vip ? vip->flags & 0xffff : 0;
}

static __always_inline bool engine_is_for_another(context *ctx, bool ethernet)
{
#ifdef KPB_XDP
	return ethernet && !out_is_for_us(ctx);
#else
	(void)ethernet;
	return ctx_is_for_another(ctx) && !engine_is_bridged(ctx);
#endif
}

/* From the network, in the name of nobody who could have sent it. */
static __always_inline bool engine_is_spoofed(context *ctx, const struct packet *p)
{
	return !p->inner_l3 && ctx_ifindex(ctx) != LOOPBACK && addr_is_martian(&p->tuple.source);
}

/*
 * Who sends in the host's own name is not the host. A flow of another's was made before the
 * client's device had programs: it goes on as it began.
 */
static __always_inline bool engine_is_met_at_egress(const struct flow *copy)
{
	const __u32 both = TRACK_EGRESS | TRACK_DIRECT;

	return copy->flags & TRACK_LOCAL || (copy->flags & both) == both;
}

static __always_inline int engine_ingress(context *ctx, bool ethernet)
{
	struct scratch *work = scratch();
	struct packet *p = &work->packet;
	enum packet_kind kind;
	struct flow *flow;
	int vip_flags;
	__u32 now;

	if (!work)
		return OUT_LEAVE;
	if (ctx_is_finished(ctx)) {
		if (ctx_ifindex(ctx) == LOOPBACK) /* we delivered it to the host */
			return OUT_LEAVE;
		ctx_begin(ctx);
	}
	vip_flags = ethernet ? engine_peek(ctx) : PEEK_UNKNOWN;
	if (vip_flags == PEEK_LEAVE)
		return OUT_LEAVE;
	kind = BY_LAYER(engine_parse)(ctx, ethernet);
	if (kind == PACKET_OTHER || kind == PACKET_MALFORMED)
		return engine_strange(kind);
	if (vip_flags == PEEK_UNKNOWN)
		vip_flags = engine_vip_flags(ctx, p);
	if (engine_is_for_another(ctx, ethernet) || engine_is_spoofed(ctx, p))
		return OUT_LEAVE;
	/* Answers of pods that are reached past netfilter go to any address. */
	if (!vip_flags && !(kpb_config.flags & CONFIG_REDIRECT_PEER))
		return OUT_LEAVE;
#ifdef KPB_XDP
	if (kind != PACKET_PLAIN || p->fragment != FRAGMENT_NONE)
		return OUT_LEAVE;
#endif
	if (kind == PACKET_LOST_FRAGMENT) {
		if (vip_flags)
			verdict_count(COUNT_FRAGMENT_LOST);
		return OUT_LEAVE;
	}
	now = track_now();
	flow = track_find(&p->tuple, &work->flow, now);
	if (flow && ctx_ifindex(ctx) != LOOPBACK && engine_is_met_at_egress(&work->flow))
		return OUT_LEAVE;
	if (flow && !(work->flow.flags & TRACK_EGRESS) && !over(p, flow, &work->flow, now))
		return engine_follow(ctx, p, flow, &work->flow, now);
	if (!vip_flags || kind == PACKET_ICMP_ERROR)
		return OUT_LEAVE;
	return BY_LAYER(open_flow)(ctx, vip_flags, false);
}

#ifndef KPB_XDP

static __always_inline int engine_egress(context *ctx, bool ethernet)
{
	struct scratch *work = scratch();
	struct packet *p = &work->packet;
	enum packet_kind kind;
	const struct vip *vip;
	struct flow *flow;
	__u32 now;

	if (!work || ctx_is_finished(ctx))
		return OUT_LEAVE;
	kind = BY_LAYER(engine_parse)(ctx, ethernet);
	if (kind != PACKET_PLAIN && kind != PACKET_ICMP_ERROR)
		return engine_strange(kind);
	now = track_now();
	flow = track_find(&p->tuple, &work->flow, now);
	if (flow && work->flow.flags & TRACK_DSR) /* on its way to the next node */
		return OUT_LEAVE;
	if (flow && work->flow.flags & TRACK_EGRESS && !over(p, flow, &work->flow, now))
		return engine_follow(ctx, p, flow, &work->flow, now);
	if (kind == PACKET_ICMP_ERROR)
		return OUT_LEAVE;
	vip = bpf_map_lookup_elem(&kpb_vips, &p->tuple.destination);
	if ((!vip || vip->flags & VIP_LINGER) && leave_is_unused(&p->tuple.destination)) {
		verdict_count(COUNT_PACKET_UNUSED_ADDRESS);
		return OUT_DROP;
	}
	if (vip && !(vip->flags & VIP_HOST_PORT))
		return leave_is_middle(p) ? OUT_LEAVE : BY_LAYER(open_flow)(ctx, vip->flags, true);
	if (leave_is_ours_to_give(p->tuple.source_port))
		return leave_disentangle(ctx, work);
	if (lb_node_port_in_use(p->tuple.source_port))
		engine_note_own(p);
	return OUT_LEAVE;
}

#endif
