/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Decides what becomes of the first packet of a flow, by the rules of Services: who asks, whom the
 * policy allows, which backend, whose name it is sent in. Rules in brackets are those of
 * docs/parity/behaviour.md. Nothing of the packet is changed here; nat.h makes the flow.
 */
#pragma once

#include "affinity.h"
#include "consistent.h"
#include "track.h"

enum client_place {
	CLIENT_OUTSIDE,
	CLIENT_POD, /* of this node, by packet: its traffic always passes netfilter */
	CLIENT_HOST,
};

enum decision {
	DECIDE_LEAVE, /* no concern of ours */
	DECIDE_DROP,
	DECIDE_REJECT,
	DECIDE_FLOW,
	DECIDE_LATER, /* XDP only: TC shall look */
};

static __always_inline bool serve_opens(const struct packet *p)
{
	if (p->tuple.protocol != KPB_IPPROTO_TCP)
		return true;
	return (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN;
}

static __always_inline bool serve_is_prefix(const struct prefix *prefix)
{
	return prefix->mask.word[0] | prefix->mask.word[1] | prefix->mask.word[2] |
	       prefix->mask.word[3];
}

static __always_inline bool serve_in_prefix(const struct ip_addr *a, const struct prefix *prefix)
{
	for (int i = 0; i < 4; i++)
		if ((a->word[i] & prefix->mask.word[i]) != prefix->address.word[i])
			return false;
	return serve_is_prefix(prefix);
}

static __always_inline bool serve_is_local_address(const struct ip_addr *a)
{
	const struct vip *vip = bpf_map_lookup_elem(&kpb_vips, a);

	return vip && vip->flags & VIP_HOST_PORT;
}

/* [E10] */
static __always_inline bool serve_has_detector(const struct packet *p, const struct prefix *pods)
{
	__u32 flag = p->ipv4 ? CONFIG_POD_SHORTCUT_IPV4 : CONFIG_POD_SHORTCUT_IPV6;

	if (!(kpb_config.flags & flag))
		return false;
	return !(kpb_config.flags & CONFIG_DETECT_BY_CIDR) || serve_is_prefix(pods);
}

static __always_inline void serve_place(const struct packet *p, struct request *r)
{
	const struct device *device = bpf_map_lookup_elem(&kpb_devices, &r->ifindex);
	__u32 flags = device ? device->flags : 0, zero = 0;
	const struct node *node = bpf_map_lookup_elem(&kpb_node, &zero);
	const struct prefix *pods;

	if (!node) /* cannot be: arrays have all their elements */
		return;
	pods = p->ipv4 ? &node->pods_ipv4 : &node->pods_ipv6;
	r->detector = serve_has_detector(p, pods);
	if (serve_is_local_address(&p->tuple.source) ||
	    (r->ifindex == LOOPBACK && addr_is_loopback(&p->tuple.source))) {
		r->place = CLIENT_HOST;
		return;
	}
	r->place = flags & DEVICE_POD && !r->egress ? CLIENT_POD : CLIENT_OUTSIDE;
	if (r->detector)
		r->pod_local = flags & DEVICE_POD_LOCAL || serve_in_prefix(&p->tuple.source, pods);
}

/* [F5, F6]; the ranges of a service without any are not asked for. */
static __always_inline bool serve_source_allowed(const struct packet *p, __u32 service)
{
	struct source_range_key key = {
		.prefix_bits = 32 + 128, .service = service, .source = p->tuple.source};

	return bpf_map_lookup_elem(&kpb_source_ranges, &key);
}

/* [C11-C15, E5-E7] */
static __always_inline bool serve_wants_local(const struct record *record, const struct request *r)
{
	if (!(r->frontend_flags & FRONTEND_EXTERNAL))
		return record->flags & RECORD_INTERNAL_LOCAL;
	if (!(record->flags & RECORD_EXTERNAL_LOCAL))
		return false;
	return r->place != CLIENT_HOST && !r->pod_local;
}

/* [E1-E8, E10]; L for host ports: portmap masquerades hairpins only. */
static __always_inline bool serve_masquerades(const struct record *record, const struct request *r)
{
	if (r->hairpin || r->place == CLIENT_HOST)
		return true;
	if (r->frontend_kind == FRONTEND_HOST_PORT)
		return false;
	if (!(r->frontend_flags & FRONTEND_EXTERNAL))
		return kpb_config.flags & CONFIG_MASQUERADE_ALL || (r->detector && !r->pod_local);
	return !(record->flags & RECORD_EXTERNAL_LOCAL);
}

/* The backend's node answers the client itself: for VIPs that all nodes know. */
static __always_inline bool serve_is_dsr(const struct packet *p, const struct request *r)
{
	__u32 flag = p->tuple.protocol == KPB_IPPROTO_TCP ? CONFIG_DSR_TCP : CONFIG_DSR_UDP;

	return kpb_config.flags & flag && r->place == CLIENT_OUTSIDE && !r->pod_local &&
	       !r->egress &&
	       (r->frontend_kind == FRONTEND_LOAD_BALANCER ||
		r->frontend_kind == FRONTEND_EXTERNAL_IP);
}

static __always_inline __u32 serve_consistent(const struct packet *p, const struct record *record,
					      const struct lb_window *window)
{
	__be16 port = record->affinity_timeout_s ? 0 : p->tuple.source_port;

	return consistent_backend(window->first, window->count,
				  consistent_client(&p->tuple.source, port));
}

static __always_inline __u32 serve_choose(const struct packet *p, const struct record *record,
					  const struct lb_window *window, const struct request *r)
{
	struct affinity_key key = {.client = p->tuple.source, .service = r->index};
	const struct backend *backend;
	__u32 id;

	/* A node behind another one must agree with it: what one node remembers does not count. */
	if (record->flags & RECORD_CONSISTENT || r->dsr)
		return serve_consistent(p, record, window);
	if (!record->affinity_timeout_s)
		return lb_random_backend(window);
	id = affinity_find(&key, r->service, record, window);
	if (id)
		return id;
	id = lb_random_backend(window);
	backend = lb_backend(id);
	if (backend)
		affinity_pin(&key, r->service, window, id, backend);
	return id;
}

/* XDP leaves to TC what wants an answer, and so does not count it. */
static __always_inline enum decision serve_count(enum counter reason, enum decision decision,
						 const struct request *r)
{
	struct service_stats *stats = bpf_map_lookup_elem(&kpb_stats, &r->index);

#ifdef KPB_XDP
	if (decision == DECIDE_REJECT)
		return DECIDE_LATER;
#endif
	verdict_count(reason);
	if (stats)
		__sync_fetch_and_add(&stats->rejected, 1);
	return decision;
}

static __always_inline enum decision
serve_nobody(const struct record *record, const struct lb_window *window, const struct request *r)
{
	if (lb_empty(record, window) == COUNT_NO_LOCAL_ENDPOINT)
		return serve_count(COUNT_PACKET_NO_LOCAL_ENDPOINT, DECIDE_DROP, r);
	return serve_count(COUNT_PACKET_NO_ENDPOINTS, DECIDE_REJECT, r);
}

static __always_inline void serve_name(const struct packet *p, const struct record *record,
				       const struct backend *backend, struct request *r)
{
	r->backend_flags = backend->flags;
	r->hairpin = addr_equal(&backend->address, &p->tuple.source);
	r->masquerade = serve_masquerades(record, r);
	if (r->place == CLIENT_HOST || r->hairpin)
		return;
	/* It came by no hook of ours: neither do its answers, unless they come to us. */
	if (r->egress) {
		r->masquerade = true;
		return;
	}
	if (r->backend_flags & BACKEND_HOST) /* nothing leaves: no name to give */
		r->masquerade = false;
	if (r->backend_flags & BACKEND_LOCAL &&
	    (kpb_config.flags & CONFIG_PRESERVE_SOURCE || r->dsr))
		r->masquerade = false;
}

/* Who serves the flow. Fills in the request. */
static __noinline enum decision serve(const struct packet *p, struct request *r)
{
	const struct backend *backend;
	const struct record *record;
	struct lb_window window;

	r->service = lb_service(r->index);
	record = lb_record(r->service);
	if (!record) {
		verdict_count(COUNT_HALF_STATE);
		return DECIDE_DROP;
	}
	serve_place(p, r);
	if (r->frontend_flags & FRONTEND_SOURCE_RANGES && !serve_source_allowed(p, r->index))
		return serve_count(COUNT_PACKET_SOURCE_RANGES, DECIDE_DROP, r);
	window = lb_window(record, serve_wants_local(record, r));
	if (!window.count)
		return serve_nobody(record, &window, r);
	r->dsr = serve_is_dsr(p, r);
	r->backend = serve_choose(p, record, &window, r);
	backend = lb_backend(r->backend);
	if (!backend) {
		verdict_count(COUNT_HALF_STATE);
		return DECIDE_DROP;
	}
	serve_name(p, record, backend, r);
	return DECIDE_FLOW;
}
