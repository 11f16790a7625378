/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The life of a packet: parse → VIP → flow, or new flow → translate → out. The one piece of code
 * behind every packet program; what a program is made for are constants of the call.
 */
#pragma once

#include "known.h"
#include "out.h"

/* enum packet_kind */
__weak __noinline int BY_LAYER(engine_parse)(context *ctx, __u32 ethernet)
{
	struct scratch *work = scratch();

	return work ? packet_parse(ctx, &work->packet, ethernet) : PACKET_OTHER;
}

/* An unknown port is the packet's own business, but on a cluster IP nobody else will answer. */
static __always_inline enum decision engine_unknown_port(__u32 vip_flags)
{
	if (!(vip_flags & VIP_CLUSTER_IP))
		return DECIDE_LEAVE;
#ifdef KPB_XDP
	return DECIDE_LATER;
#else
	verdict_count(COUNT_PACKET_UNKNOWN_PORT);
	return DECIDE_REJECT;
#endif
}

/* Neither a SYN nor of a flow that we know: never forwarded by whatever route there is. */
static __always_inline enum decision engine_unknown_tcp(context *ctx, const struct packet *p,
							__u32 vip_flags, const struct request *r)
{
	struct service service = lb_service(r->index);
	const struct record *record = lb_record(service);

#ifdef KPB_XDP
	(void)ctx, (void)p, (void)vip_flags, (void)record;
	return DECIDE_LATER;
#else
	if ((vip_flags & VIP_HOST_PORT && known_to_socket(ctx, p)) || known_to_netfilter(ctx, p)) {
		verdict_count(COUNT_UNKNOWN_TCP_TO_STACK);
		return DECIDE_LEAVE;
	}
	if (record && record->flags & RECORD_CONSISTENT && !(p->tcp_flags & TCP_RST) &&
	    !(p->tcp_flags & TCP_SYN))
		return DECIDE_FLOW;
	verdict_count(COUNT_UNKNOWN_TCP);
	return DECIDE_REJECT;
#endif
}

static __always_inline const struct frontend *engine_frontend(const struct packet *p,
							      __u32 vip_flags)
{
	struct frontend_key key = {
		.address = p->tuple.destination,
		.port = p->tuple.destination_port,
		.protocol = p->tuple.protocol,
	};

	if (vip_flags & VIP_LOOPBACK)
		key.address = lb_vip_address(&key.address);
	return lb_frontend(vip_flags, &key);
}

/* What to do with a packet to a VIP that belongs to no flow. */
static __noinline enum decision engine_new(context *ctx, struct scratch *work, __u32 vip_flags,
					   bool egress)
{
	struct packet *p = &work->packet;
	struct request *r = &work->request;
	const struct frontend *frontend = engine_frontend(p, vip_flags);
	enum decision decision = DECIDE_FLOW;

	if (!frontend)
		return engine_unknown_port(vip_flags);
	__builtin_memset(r, 0, sizeof(*r));
	r->ifindex = ctx_ifindex(ctx);
	r->egress = egress;
	r->index = frontend->service;
	r->frontend_kind = frontend->kind;
	r->frontend_flags = frontend->flags;
	if (p->fragment == FRAGMENT_LATER) /* its first was refused */
		return DECIDE_DROP;
	if (!serve_opens(p))
		decision = engine_unknown_tcp(ctx, p, vip_flags, r);
	else if (vip_flags & VIP_HOST_PORT && p->tuple.protocol == KPB_IPPROTO_UDP &&
		 known_to_socket(ctx, p))
		decision = DECIDE_LEAVE;
	if (decision != DECIDE_FLOW)
		return decision;
	decision = serve(p, r);
	if (decision != DECIDE_FLOW)
		return decision;
	/* A spoofed source: input routing drops it. */
	if (r->place == CLIENT_HOST && !egress && r->ifindex != ROUTE_LOOPBACK)
		return DECIDE_LEAVE;
	return DECIDE_FLOW;
}

static __always_inline int engine_no_vip(const struct ip_addr *address)
{
	if (!serve_is_unused_address(address))
		return OUT_LEAVE;
	verdict_count(COUNT_PACKET_UNUSED_ADDRESS);
	return OUT_DROP;
}

/* A packet to a VIP that belongs to no flow. */
__weak __noinline int BY_LAYER(engine_open)(context *ctx, __u32 vip_flags, __u32 egress)
{
	struct scratch *work = scratch();
	enum decision decision;

	if (!work)
		return OUT_LEAVE;
#ifndef KPB_XDP
	if (vip_flags & VIP_ON_DEVICE)
		verdict_count(COUNT_ON_DEVICE);
#endif
	if (vip_flags & VIP_LINGER)
		return engine_no_vip(&work->packet.tuple.destination);
	if (vip_flags & (VIP_ON_DEVICE | VIP_CANARY))
		return OUT_LEAVE;
	if (vip_flags & VIP_LOOPBACK && ctx_ifindex(ctx) != ROUTE_LOOPBACK)
		return OUT_LEAVE;
	decision = engine_new(ctx, work, vip_flags, egress);
	if (decision == DECIDE_FLOW)
		decision = nat_open(ctx, &work->packet, &work->request);
	switch (decision) {
	case DECIDE_DROP:
		return OUT_DROP;
#ifndef KPB_XDP
	case DECIDE_REJECT:
		return reject(ctx, &work->packet, egress || ctx_ifindex(ctx) == ROUTE_LOOPBACK);
#endif
	case DECIDE_FLOW:
		return BY_LAYER(out)(ctx, true);
	default:
		return OUT_LEAVE;
	}
}

/*
 * UDP ends with its backend [J1-J5]: asked only when the service was published anew. A service
 * without any endpoint, or one that is gone, ends nothing.
 */
static __noinline int engine_flow_ended(const struct packet *p, struct flow *flow)
{
	struct service service = lb_service(flow->service);
	const struct record *record = lb_record(service);
	const struct backend *backend = lb_backend(flow->backend);

	if (!record || service.record == flow->record || !record->members)
		return false;
	if (backend && backend->port == flow->destination_port &&
	    addr_equal(&backend->address, &flow->destination) &&
	    lb_is_member(record->slots, record->members, flow->backend)) {
		flow->record = service.record;
		return false;
	}
	verdict_count(COUNT_FLOW_ENDED);
	track_remove(&p->tuple, flow, flow->turn);
	return true;
}

static __always_inline bool engine_is_over(const struct packet *p, struct flow *flow,
					   const struct flow *copy)
{
	/* What finishes behind netfilter the work of an entry before it goes when that one does. */
	if (copy->flags & TRACK_EGRESS && !(copy->flags & TRACK_DIRECT))
		return false;
	if (p->tuple.protocol == KPB_IPPROTO_TCP) {
		if (!track_is_reopened(copy, p->tcp_flags))
			return false;
		track_remove(&p->tuple, flow, copy->turn);
		return true;
	}
	if (p->tuple.protocol != KPB_IPPROTO_UDP || copy->flags & (TRACK_REPLY | TRACK_PASS))
		return false;
	return lb_service(copy->service).record != copy->record && engine_flow_ended(p, flow);
}

/* A packet of a flow. */
static __always_inline int engine_follow(context *ctx, const struct packet *p, struct flow *flow,
					 const struct flow *copy, __u32 now)
{
	if (!p->inner_l3)
		track_seen(p, flow, copy, now);
	else
		verdict_count(COUNT_ICMP_ERROR);
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

	return device && device->flags & DEVICE_POD;
}

static __always_inline int engine_ingress(context *ctx, bool ethernet)
{
	struct scratch *work = scratch();
	struct packet *p = &work->packet;
	enum packet_kind kind;
	struct ip_addr address;
	const struct vip *vip;
	struct flow *flow;
	__u32 vip_flags, now;

	if (!work)
		return OUT_LEAVE;
	ctx_is_finished(ctx); /* a mark that came along means nothing here */
	kind = BY_LAYER(engine_parse)(ctx, ethernet);
	if (kind == PACKET_OTHER || kind == PACKET_MALFORMED)
		return engine_strange(kind);
	address = p->tuple.destination;
	if (ctx_ifindex(ctx) == ROUTE_LOOPBACK)
		address = lb_vip_address(&address);
	vip = bpf_map_lookup_elem(&kpb_vips, &address);
	/* Answers of pods that are reached past netfilter go to any address. */
	if (!vip && !(kpb_config.flags & CONFIG_REDIRECT_PEER))
		return engine_no_vip(&address);
	vip_flags = vip ? vip->flags : 0;
	if (ctx_is_for_another(ctx) && !engine_is_bridged(ctx))
		return OUT_LEAVE;
#ifdef KPB_XDP
	if (kind != PACKET_PLAIN || p->fragment != FRAGMENT_NONE)
		return OUT_LEAVE;
#endif
	if (kind == PACKET_LOST_FRAGMENT) {
		if (vip)
			verdict_count(COUNT_FRAGMENT_LOST);
		return OUT_LEAVE;
	}
	now = track_now();
	flow = track_find(&p->tuple, &work->flow, now);
	if (flow && !(work->flow.flags & TRACK_EGRESS) && !engine_is_over(p, flow, &work->flow))
		return engine_follow(ctx, p, flow, &work->flow, now);
	if (!vip)
		return engine_no_vip(&address);
	if (kind == PACKET_ICMP_ERROR)
		return OUT_LEAVE;
	return BY_LAYER(engine_open)(ctx, vip_flags, false);
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
	if (flow && work->flow.flags & TRACK_EGRESS && !engine_is_over(p, flow, &work->flow))
		return engine_follow(ctx, p, flow, &work->flow, now);
	if (kind == PACKET_ICMP_ERROR)
		return OUT_LEAVE;
	vip = bpf_map_lookup_elem(&kpb_vips, &p->tuple.destination);
	if (vip && !(vip->flags & VIP_HOST_PORT))
		return BY_LAYER(engine_open)(ctx, vip->flags, true);
	if (!vip && ctx->sk && serve_is_unused_address(&p->tuple.destination)) {
		verdict_count(COUNT_PACKET_UNUSED_ADDRESS);
		return OUT_DROP;
	}
	if (lb_node_port_in_use(p->tuple.source_port))
		engine_note_own(p);
	return OUT_LEAVE;
}

#endif
