/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The first packet of a flow, or one that belongs to none: leave, drop, answer, or open a flow. */
#pragma once

#include "known.h"
#include "out.h"

/* An unknown port is the packet's own business, but on a cluster IP nobody else will answer. */
static __always_inline enum decision open_unknown_port(__u32 vip_flags)
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

/*
 * What leaves, or comes by loopback, has been through netfilter just now, which may track it from
 * its middle on. That of a kube-proxy has no cluster IP as its destination any more.
 */
static __always_inline bool open_has_passed_netfilter(__u32 vip_flags, const struct request *r)
{
	return (r->egress || r->ifindex == LOOPBACK) && vip_flags & VIP_CLUSTER_IP;
}

/* Neither a SYN nor of a flow that we know: never forwarded by whatever route there is. */
static __always_inline enum decision open_unknown_tcp(context *ctx, const struct packet *p,
						      __u32 vip_flags, const struct request *r)
{
	struct service service = lb_service(r->index);
	const struct record *record = lb_record(service);

#ifdef KPB_XDP
	(void)ctx, (void)p, (void)vip_flags, (void)record;
	return DECIDE_LATER;
#else
	if ((vip_flags & VIP_HOST_PORT && known_to_socket(ctx, p)) ||
	    (!open_has_passed_netfilter(vip_flags, r) &&
	     known_to_netfilter(ctx, &p->tuple, p->ipv4))) {
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

static __always_inline const struct frontend *open_frontend(const struct packet *p, __u32 vip_flags)
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
static __noinline enum decision open_decide(context *ctx, struct scratch *work, __u32 vip_flags,
					    bool egress)
{
	struct packet *p = &work->packet;
	struct request *r = &work->request;
	const struct frontend *frontend = open_frontend(p, vip_flags);
	enum decision decision = DECIDE_FLOW;

	if (!frontend)
		return open_unknown_port(vip_flags);
	__builtin_memset(r, 0, sizeof(*r));
	r->ifindex = ctx_ifindex(ctx);
	r->egress = egress;
	r->index = frontend->service;
	r->frontend_kind = frontend->kind;
	r->frontend_flags = frontend->flags;
	if (p->fragment == FRAGMENT_LATER) /* its first was refused */
		return DECIDE_DROP;
	if (!serve_opens(p))
		decision = open_unknown_tcp(ctx, p, vip_flags, r);
	else if (vip_flags & VIP_HOST_PORT && p->tuple.protocol == KPB_IPPROTO_UDP &&
		 known_to_socket(ctx, p))
		decision = DECIDE_LEAVE;
	if (decision != DECIDE_FLOW)
		return decision;
	decision = serve(p, r);
	if (decision != DECIDE_FLOW)
		return decision;
	/* A spoofed source: input routing drops it. */
	if (r->place == CLIENT_HOST && !egress && r->ifindex != LOOPBACK)
		return DECIDE_LEAVE;
	return DECIDE_FLOW;
}

#ifndef KPB_XDP

/* Where the host's own packets leave, its sockets get the answer; a stranger's came by elsewhere.
 */
static __always_inline int open_reject(context *ctx, struct packet *p, bool egress)
{
	bool own = ctx_ifindex(ctx) == LOOPBACK;

	if (egress) {
		own = serve_is_local_address(&p->tuple.source);
		if (!own)
			return OUT_DROP;
	}
	return reject(ctx, p, own);
}

#endif

/* A packet to a VIP that belongs to no flow. */
__weak __noinline int BY_LAYER(open_flow)(context *ctx, __u32 vip_flags, __u32 egress)
{
	struct scratch *work = scratch();
	enum decision decision;

	if (!work)
		return OUT_LEAVE;
#ifndef KPB_XDP
	if (vip_flags & VIP_ON_DEVICE)
		verdict_count(COUNT_ON_DEVICE);
#endif
	if (vip_flags & (VIP_ON_DEVICE | VIP_CANARY | VIP_LINGER))
		return OUT_LEAVE;
	if (vip_flags & VIP_LOOPBACK && ctx_ifindex(ctx) != LOOPBACK)
		return OUT_LEAVE;
	decision = open_decide(ctx, work, vip_flags, egress);
	if (decision == DECIDE_FLOW)
		decision = nat_open(ctx, &work->packet, &work->request);
	switch (decision) {
	case DECIDE_DROP:
		return OUT_DROP;
#ifndef KPB_XDP
	case DECIDE_REJECT:
		return open_reject(ctx, &work->packet, egress);
#endif
	case DECIDE_FLOW:
		return BY_LAYER(out)(ctx, true);
	default:
		return OUT_LEAVE;
	}
}
