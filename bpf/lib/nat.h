/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Makes the entries of a new flow: outer, middle and inner tuples as docs/decisions/0005 has them,
 * and source ports that are free.
 */
#pragma once

#include "known.h"
#include "route.h"
#include "serve.h"
#include "track_make.h"

enum { NAT_PORT_TRIES = 128, NAT_APART_TRIES = 4 };

/* A global function, so that the verifier looks at it once and not at each turn of the loop. */
__weak __noinline int nat_try_port(__u32 which, __u32 number)
{
	struct scratch *work = scratch();
	struct track_pair *pair;

	if (!work)
		return -KPB_E2BIG;
	pair = which ? &work->pair[1] : &work->pair[0];
	pair->flow.source_port = bpf_htons(number);
	return track_make(pair);
}

/* The pair under any free port of work's range, tried in turn from a random one on. */
__weak __noinline int nat_make_dynamic(__u32 which)
{
	struct scratch *work = scratch();
	int error = -KPB_EEXIST;
	__u32 first, count, start;

	if (!work || !work->port_count)
		return -KPB_E2BIG;
	first = work->first_port;
	count = work->port_count;
	start = lb_random_below(count);
	for (__u32 i = 0; i < NAT_PORT_TRIES && i < count; i++) {
		error = nat_try_port(which, first + (start + i) % count);
		if (error != -KPB_EEXIST)
			break;
	}
	return error;
}

/* None is free: ports of flows that are over, or were never answered, serve again. */
static __always_inline int nat_make_forced(struct scratch *work, __u32 which)
{
	int error = nat_make_dynamic(which);

	if (error != -KPB_EEXIST)
		return error;
	work->force = true;
	error = nat_make_dynamic(which);
	work->force = false;
	return error;
}

/* In the node's name: a port of those that are ours to give. */
static __always_inline int nat_make_own(struct scratch *work, __u32 which)
{
	struct track_pair *pair = &work->pair[which];

	if (pair->key.protocol == KPB_IPPROTO_SCTP)
		return track_make(pair);
	work->first_port = kpb_config.snat_first;
	work->port_count = kpb_config.snat_count;
	return nat_make_forced(work, which);
}

/*
 * In the client's name, under another port if somebody has the reply's tuple already, or if
 * `apart` wants one that the client does not use. Not one that is ours to give: the client may be
 * another node, which sends its own clients' packets to the same backend from just those.
 */
static __always_inline int nat_make_client(struct scratch *work, __u32 which, bool apart)
{
	struct track_pair *pair = &work->pair[which];
	__be16 port = pair->flow.source_port;
	int error = -KPB_EEXIST;

	if (!apart || pair->key.protocol == KPB_IPPROTO_SCTP)
		error = track_make(pair);
	if (error != -KPB_EEXIST || pair->key.protocol == KPB_IPPROTO_SCTP)
		return error;
	work->first_port = kpb_config.middle_first;
	work->port_count = kpb_config.middle_count;
	error = nat_make_forced(work, which);
	if (error != -KPB_EEXIST || !apart)
		return error;
	pair->flow.source_port = port;
	return track_make(pair);
}

static __always_inline void nat_undo(const struct track_pair *pair)
{
	struct flow *flow = bpf_map_lookup_elem(&kpb_flows, &pair->key);

	if (flow)
		track_remove(&pair->key, flow, pair->flow.turn);
}

/* In the node's name, at a port that netfilter has given nobody: its connections live on. */
static __always_inline int nat_make_apart(context *ctx, const struct packet *p,
					  struct scratch *work, __u32 which)
{
	struct track_pair *pair = &work->pair[which];

	for (int i = 0; i < NAT_APART_TRIES; i++) {
		int error = nat_make_own(work, which);

		if (error || !known_to_netfilter(ctx, &pair->partner_key, p->ipv4))
			return error;
		nat_undo(pair);
	}
	return -KPB_EEXIST;
}

static __always_inline __u8 nat_first_state(const struct packet *p)
{
	switch (p->tuple.protocol) {
	case KPB_IPPROTO_TCP: /* also in mid-stream: nobody has answered yet */
		return STATE_TCP_NEW;
	case KPB_IPPROTO_UDP:
		return STATE_UDP_NEW;
	default:
		return STATE_OTHER;
	}
}

/* Field by field, since a whole entry at once would pass through the stack. */
static __always_inline void nat_entry(const struct packet *p, const struct request *r,
				      struct flow *flow)
{
	__builtin_memset(flow, 0, sizeof(*flow));
	flow->state = nat_first_state(p);
	flow->deadline = track_now() + track_timeout(flow->state);
	flow->backend = r->backend;
	flow->service = r->index;
	flow->record = r->service.record;
}

/* The pair that leads the packet to the backend, and answers back to where it came from. */
static __always_inline void nat_describe(const struct packet *p, const struct request *r,
					 const struct backend *backend, struct track_pair *pair)
{
	pair->key = p->tuple;
	pair->step = TRACK_WHOLE;
	nat_entry(p, r, &pair->flow);
	pair->flow.source = p->tuple.source;
	pair->flow.source_port = p->tuple.source_port;
	pair->flow.destination = backend->address;
	pair->flow.destination_port = backend->port;
	pair->flow.flags = r->egress ? TRACK_EGRESS : 0;
	if (p->tcp_flags & TCP_FIN) /* another node's connection, and the end of it */
		pair->flow.flags |= TRACK_FIN;
	nat_entry(p, r, &pair->partner);
	pair->partner.source = p->tuple.destination;
	pair->partner.source_port = p->tuple.destination_port;
	pair->partner.destination = p->tuple.source;
	pair->partner.destination_port = p->tuple.source_port;
	pair->partner.flags = TRACK_REPLY;
	pair->partner.record = r->index;
}

/*
 * Where the client's packet came from: device and MAC. The answer goes the same way back, also if
 * the routes of this node would lead it elsewhere.
 */
static __always_inline void nat_note_way(context *ctx, const struct packet *p, struct flow *reply)
{
	const struct ethhdr *eth = ctx_at(ctx, 0, sizeof(*eth));
	__u32 mac[2] = {};

	if (!p->l3 || !eth) /* tunnels may lead one way only: the routes know better */
		return;
	__builtin_memcpy(mac, eth->h_source, sizeof(eth->h_source));
	reply->ifindex = ctx_ifindex(ctx);
	reply->backend = mac[0];
	reply->service = mac[1];
}

static __always_inline void nat_remember_way(context *ctx, const struct packet *p,
					     const struct request *r, struct flow *reply)
{
	/* With DSR another node may have sent it on; where it leaves, the frame is ours already. */
	if (r->place == CLIENT_OUTSIDE && !r->dsr && !r->egress)
		nat_note_way(ctx, p, reply);
}

static __always_inline int nat_direct(context *ctx, const struct packet *p, const struct request *r,
				      struct scratch *work)
{
	struct track_pair *pair = &work->pair[0];

	pair->flow.flags |= TRACK_DIRECT;
	pair->partner.flags |= TRACK_DIRECT;
	if (r->backend_flags & BACKEND_HOST)
		pair->flow.flags |= TRACK_HOST;
	if (r->place == CLIENT_HOST) {
		pair->flow.flags |= TRACK_LOCAL;
		pair->partner.flags |= TRACK_HOST;
	} else if (r->place == CLIENT_POD) {
		pair->partner.ifindex = r->ifindex;
	}
	nat_remember_way(ctx, p, r, &pair->partner);
	if (!r->masquerade)
		return nat_make_client(work, 0, false);
	if (route_own_address(ctx, p, &pair->flow))
		return -KPB_ENETUNREACH;
	return nat_make_apart(ctx, p, work, 0);
}

/* The second pair of a flow that netfilter sees: middle to inner, where packets leave. */
static __always_inline int nat_masquerade(context *ctx, const struct packet *p,
					  struct scratch *work)
{
	struct track_pair *first = &work->pair[0], *second = &work->pair[1];
	struct flow *stale;

	second->step = TRACK_UNLISTED;
	second->key = p->tuple;
	second->key.source_port = first->flow.source_port;
	second->key.destination = first->flow.destination;
	second->key.destination_port = first->flow.destination_port;
	second->flow = first->flow;
	second->flow.flags = TRACK_EGRESS | (first->flow.flags & TRACK_FIN);
	second->partner = first->partner;
	second->partner.source = first->flow.destination;
	second->partner.source_port = first->flow.destination_port;
	second->partner.destination_port = first->flow.source_port;
	second->partner.flags = TRACK_REPLY;
	second->partner.ifindex = 0;
	if (route_own_address(ctx, p, &second->flow))
		return -KPB_ENETUNREACH;
	/* The outer flow is new: what stands here is left from an earlier one. */
	stale = bpf_map_lookup_elem(&kpb_flows, &second->key);
	if (stale)
		track_remove(&second->key, stale, stale->turn);
	return nat_make_apart(ctx, p, work, 1);
}

/*
 * The second pair waits: now packets may find the first. In the queue the first comes first, so
 * that it also goes first where room is needed.
 */
static __noinline int nat_publish(struct scratch *work)
{
	struct track_pair *first = &work->pair[0], *second = &work->pair[1];
	int error = track_publish(first);

	if (error) {
		nat_undo(second);
		return error;
	}
	track_note(&first->key, &first->flow);
	track_note(&second->key, &second->flow);
	return 0;
}

static __always_inline int nat_stack(context *ctx, const struct packet *p, const struct request *r,
				     struct scratch *work)
{
	struct track_pair *pair = &work->pair[0];
	int error;

	pair->partner.flags |= TRACK_EGRESS;
	if (r->backend_flags & BACKEND_HOST)
		pair->flow.flags |= TRACK_HOST;
	nat_remember_way(ctx, p, r, &pair->partner);
	/* Nothing tells a datagram of the client's to the backend itself apart from those that were
	 * translated: these get a port that no client has. */
	pair->step = r->masquerade ? TRACK_RESERVE : TRACK_WHOLE;
	error = nat_make_client(work, 0, r->masquerade && p->tuple.protocol == KPB_IPPROTO_UDP);
	if (error || !r->masquerade)
		return error;
	error = nat_masquerade(ctx, p, work);
	if (error >= 0)
		return nat_publish(work);
	bpf_map_delete_elem(&kpb_flows, &pair->partner_key);
	return error;
}

static __always_inline int nat_dsr(struct scratch *work)
{
	work->pair[0].flow.flags |= TRACK_DSR | TRACK_DIRECT | TRACK_ALONE;
	verdict_count(COUNT_DSR);
	return track_make(&work->pair[0]);
}

static __always_inline bool nat_is_direct(const struct request *r)
{
	if (r->place == CLIENT_HOST || r->egress)
		return true;
	if (r->place != CLIENT_OUTSIDE || r->backend_flags & BACKEND_HOST)
		return false;
	if (r->backend_flags & BACKEND_LOCAL)
		return kpb_config.flags & CONFIG_REDIRECT_PEER;
	return r->masquerade;
}

static __always_inline enum decision nat_refuse(int error, const struct request *r)
{
	struct service_stats *stats = bpf_map_lookup_elem(&kpb_stats, &r->index);

	if (error == -KPB_EEXIST) {
		verdict_count(COUNT_SNAT_EXHAUSTED);
		if (stats)
			__sync_fetch_and_add(&stats->snat_exhausted, 1);
		return DECIDE_DROP;
	}
	verdict_count(error == -KPB_ENETUNREACH ? COUNT_NO_ROUTE : COUNT_FLOWS_FULL);
	return DECIDE_DROP;
}

/* Make the flow that was decided on; its first entry is scratch()->pair[0].flow. */
static __noinline enum decision nat_open(context *ctx, const struct packet *p, struct request *r)
{
	const struct backend *backend = bpf_map_lookup_elem(&kpb_backends, &r->backend);
	struct service_stats *stats = bpf_map_lookup_elem(&kpb_stats, &r->index);
	struct scratch *work = scratch();
	int error;

	if (!backend || !work)
		return DECIDE_DROP;
	if (p->tuple.protocol == KPB_IPPROTO_SCTP && backend->port != p->tuple.destination_port) {
		verdict_count(COUNT_SCTP_PORT);
		return DECIDE_LEAVE;
	}
	nat_describe(p, r, backend, &work->pair[0]);
	if (r->dsr && !(r->backend_flags & (BACKEND_LOCAL | BACKEND_HOST)))
		error = nat_dsr(work);
	else if (nat_is_direct(r))
		error = nat_direct(ctx, p, r, work);
	else
		error = nat_stack(ctx, p, r, work);
	if (error < 0)
		return nat_refuse(error, r);
	if (!error) {
		verdict_count(COUNT_FLOW_NEW);
		if (stats)
			__sync_fetch_and_add(&stats->flows, 1);
	}
	return DECIDE_FLOW;
}
