/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Choosing: destination → VIP → frontend → service → record → window → slot → backend.
 *
 * Knows nothing of sockets or packets. User space writes backends before slots, slots before the
 * record and the record before the one word that publishes it, so whatever is reached from a
 * service is whole; an id that leads nowhere is our own error and is counted (COUNT_HALF_STATE).
 */
#pragma once

#include "addr.h"

/* Where the iteration ends on kernels without bpf_loop(). */
enum { LB_SCAN_BOUND = 256 };

/* The part of an extent that a policy allows. */
struct lb_window {
	__u32 first;
	__u32 count;
	__u32 kind; /* enum affinity_window */
};

/* The address under which `dialled` stands in the maps: all of 127/8 is one, and the wildcard. */
static __always_inline struct ip_addr lb_vip_address(const struct ip_addr *dialled)
{
	if (addr_is_loopback(dialled) || addr_is_wildcard(dialled))
		return addr_loopback(addr_is_ipv4(dialled));
	return *dialled;
}

static __always_inline bool lb_node_port_in_use(__be16 port)
{
	__u32 number = bpf_ntohs(port);
	__u32 index = number / 64;
	const __u64 *ports = bpf_map_lookup_elem(&kpb_node_ports, &index);

	return ports && *ports & 1ULL << number % 64;
}

static __always_inline const struct frontend *lb_wildcard(const struct frontend_key *key)
{
	struct frontend_key wildcard = *key;

	if (!lb_node_port_in_use(key->port))
		return NULL;
	wildcard.address = addr_wildcard(addr_is_ipv4(&key->address));
	return bpf_map_lookup_elem(&kpb_frontends, &wildcard);
}

static __always_inline const struct frontend *lb_frontend(__u32 vip_flags,
							  const struct frontend_key *key)
{
	const struct frontend *frontend = bpf_map_lookup_elem(&kpb_frontends, key);

	if (frontend || !(vip_flags & (VIP_NODE_PORT | VIP_HOST_PORT)))
		return frontend;
	frontend = lb_wildcard(key);
	if (!frontend)
		return NULL;
	if (frontend->kind == FRONTEND_NODE_PORT)
		return vip_flags & VIP_NODE_PORT ? frontend : NULL;
	return vip_flags & VIP_HOST_PORT ? frontend : NULL;
}

/* One load: whoever reads sees one publication, never parts of two. */
static __always_inline struct service lb_service(__u32 index)
{
	const volatile __u64 *word = bpf_map_lookup_elem(&kpb_services, &index);
	union {
		__u64 word;
		struct service service;
	} value = {};

	if (word)
		value.word = *word;
	return value.service;
}

static __always_inline const struct record *lb_record(struct service service)
{
	return service.record ? bpf_map_lookup_elem(&kpb_records, &service.record) : NULL;
}

static __always_inline struct lb_window lb_window(const struct record *record, bool local)
{
	if (local)
		return (struct lb_window){record->slots + record->local_first, record->local_count,
					  WINDOW_LOCAL};
	return (struct lb_window){record->slots, record->cluster_count, WINDOW_CLUSTER};
}

/* kube-proxy drops where only the local set is empty; a socket is told at once instead. */
static __always_inline enum counter lb_empty(const struct record *record,
					     const struct lb_window *window)
{
	if (window->kind == WINDOW_LOCAL && record->flags & RECORD_HAS_ENDPOINTS)
		return COUNT_NO_LOCAL_ENDPOINT;
	return COUNT_NO_ENDPOINTS;
}

static __always_inline __u32 lb_random_below(__u32 count)
{
	return (__u64)bpf_get_prandom_u32() * count >> 32;
}

static __always_inline __u32 lb_slot(__u32 position)
{
	const struct slot *slot = bpf_map_lookup_elem(&kpb_slots, &position);

	return slot ? slot->backend : 0;
}

/* NULL unless the id is in use. */
static __always_inline const struct backend *lb_backend(__u32 id)
{
	const struct backend *backend = bpf_map_lookup_elem(&kpb_backends, &id);

	return id && backend && backend->flags & BACKEND_LIVE ? backend : NULL;
}

static __always_inline __u32 lb_random_backend(const struct lb_window *window)
{
	return lb_slot(window->first + lb_random_below(window->count));
}

struct lb_scan {
	__u32 first;
	__u32 count;
	__u32 start;  /* of a scan for a host backend: where in the window it begins */
	__u32 wanted; /* of a scan for a member */
	__u32 found;
};

static long lb_scan_member(__u32 step, struct lb_scan *scan)
{
	if (lb_slot(scan->first + step) != scan->wanted)
		return 0;
	scan->found = scan->wanted;
	return 1;
}

static long lb_scan_host(__u32 step, struct lb_scan *scan)
{
	__u32 position = scan->start + step;
	const struct backend *backend;
	__u32 id;

	if (position >= scan->count)
		position -= scan->count;
	id = lb_slot(scan->first + position);
	backend = lb_backend(id);
	if (!backend || !(backend->flags & BACKEND_HOST))
		return 0;
	scan->found = id;
	return 1;
}

/*
 * Whether `backend` is one of `count` slots from `first`. A global function, so that the verifier
 * looks at it once and not at each call. Without bpf_loop() it looks at the first LB_SCAN_BOUND
 * slots only: a backend behind them counts as gone, and the client gets another that is valid.
 */
__weak __noinline int lb_is_member(__u32 first, __u32 count, __u32 backend)
{
	struct lb_scan scan = {.first = first, .count = count, .wanted = backend};

	if (!backend)
		return 0;
	if (kernel_has(loop)) {
		bpf_loop(count, lb_scan_member, &scan, 0);
	} else {
		for (__u32 i = 0; i < LB_SCAN_BOUND && i < count; i++)
			if (lb_scan_member(i, &scan))
				break;
	}
	return scan.found != 0;
}

/*
 * A backend that runs on the host itself, the only kind that a loopback source reaches, or 0.
 * Without bpf_loop() it looks at LB_SCAN_BOUND slots from a random one.
 */
__weak __noinline int lb_host_backend(__u32 first, __u32 count)
{
	struct lb_scan scan = {.first = first, .count = count};

	scan.start = lb_random_below(count);
	if (kernel_has(loop)) {
		bpf_loop(count, lb_scan_host, &scan, 0);
	} else {
		for (__u32 i = 0; i < LB_SCAN_BOUND && i < count; i++)
			if (lb_scan_host(i, &scan))
				break;
	}
	return scan.found;
}
