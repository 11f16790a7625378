/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whether the flow that a packet would follow is over, so that the packet begins another one. */
#pragma once

#include "open.h"

/*
 * Who serves the flow's VIP and port now: it may be another service than when the flow began. 0 if
 * nobody does: then the flow's own index may by now be that of a service that has nothing to do
 * with it.
 */
static __always_inline __u32 over_heir(const struct packet *p)
{
	struct ip_addr address = lb_vip_address(&p->tuple.destination);
	const struct vip *vip = bpf_map_lookup_elem(&kpb_vips, &address);
	const struct frontend *frontend = vip ? open_frontend(p, vip->flags) : NULL;

	return frontend ? frontend->service : 0;
}

/* The flow goes on, with another service that has its backend too: both directions count there. */
static __always_inline void over_inherit(const struct packet *p, struct flow *flow, __u32 index)
{
	struct tuple partner_key = track_partner_key(&p->tuple, flow);
	struct flow *reply = NULL;

	if (track_has_partner(flow))
		reply = bpf_map_lookup_elem(&kpb_flows, &partner_key);
	if (reply && track_is_partner(reply, &p->tuple, flow->turn))
		reply->record = index;
	flow->service = index;
}

/*
 * UDP ends with its backend [J1-J5]: asked when the service was published anew, or went, and once
 * a tick, since one of its addresses alone may have gone to another. A service without any
 * endpoint, or one that went and has no heir, ends nothing.
 */
static __noinline int over_with_backend(const struct packet *p, struct flow *flow)
{
	__u32 index = over_heir(p);
	struct service service = lb_service(index);
	const struct record *record = lb_record(service);
	const struct backend *backend = lb_backend(flow->backend);

	if (!record || !record->members ||
	    (index == flow->service && service.record == flow->record))
		return false;
	if (backend && backend->port == flow->destination_port &&
	    addr_equal(&backend->address, &flow->destination) &&
	    lb_is_member(record->slots, record->members, flow->backend)) {
		if (index != flow->service)
			over_inherit(p, flow, index);
		flow->record = service.record;
		return false;
	}
	verdict_count(COUNT_FLOW_ENDED);
	track_remove(&p->tuple, flow, flow->turn);
	return true;
}

/*
 * A flow that is over, and a handshake that did not come by its VIP: the client speaks to the
 * backend itself now, from the same port. By the VIP both pairs would have been made anew.
 */
static __always_inline bool over_for_another(const struct packet *p, const struct flow *copy)
{
	__u8 handshake = p->tcp_flags & (TCP_SYN | TCP_ACK);

	if (p->tuple.protocol != KPB_IPPROTO_TCP ||
	    (copy->state != STATE_TCP_TIME_WAIT && copy->state != STATE_TCP_CLOSED))
		return false;
	if (copy->flags & TRACK_REPLY)
		return handshake == (TCP_SYN | TCP_ACK);
	return handshake == TCP_SYN && copy->flags & TRACK_EGRESS && !(copy->flags & TRACK_DIRECT);
}

/* Whether a SYN opens a new connection on a flow that is over. */
static __always_inline bool over_is_reopened(const struct flow *flow, __u8 tcp)
{
	return (tcp & (TCP_SYN | TCP_ACK)) == TCP_SYN && !(flow->flags & TRACK_REPLY) &&
	       flow->state >= STATE_TCP_CLOSING && flow->state <= STATE_TCP_CLOSED;
}

/* The first packet of the flow in this tick. */
static __always_inline bool over_is_new_tick(const struct flow *copy, __u32 now)
{
	return copy->deadline != now + track_timeout(copy->state);
}

static __always_inline bool over(const struct packet *p, struct flow *flow, const struct flow *copy,
				 __u32 now)
{
	if (over_for_another(p, copy)) {
		track_remove(&p->tuple, flow, copy->turn);
		return true;
	}
	/* What finishes behind netfilter the work of an entry before it goes when that one does. */
	if (copy->flags & TRACK_EGRESS && !(copy->flags & TRACK_DIRECT))
		return false;
	if (p->tuple.protocol == KPB_IPPROTO_TCP) {
		if (over_is_reopened(copy, p->tcp_flags)) {
			track_remove(&p->tuple, flow, copy->turn);
			return true;
		}
		/* A connection keeps a backend that is gone, but a new one does not inherit it. */
		if (!serve_opens(p) || copy->state != STATE_TCP_ESTABLISHED)
			return false;
	} else if (p->tuple.protocol != KPB_IPPROTO_UDP) {
		return false;
	}
	if (copy->flags & (TRACK_REPLY | TRACK_PASS))
		return false;
	return (lb_service(copy->service).record != copy->record || over_is_new_tick(copy, now)) &&
	       over_with_backend(p, flow);
}
