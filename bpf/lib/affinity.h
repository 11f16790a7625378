/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Session affinity by client: one backend per service and client, for as long as it is used.
 *
 * A pin counts only if nothing says otherwise: same life of the service, backend not reused, not
 * timed out, and in the window that applies now. It is refreshed by each new flow, and replaced
 * as a whole. The kernel may give an element of an LRU to another key while we look at it, so
 * nothing is believed because of where it was found: the record id ties a pin to its service.
 */
#pragma once

#include "lb.h"

static __always_inline __u32 affinity_now_s(void)
{
	return bpf_ktime_get_coarse_ns() / 1000000000;
}

static __always_inline bool affinity_in_window(struct affinity *pin, __u32 record_id,
					       const struct lb_window *window)
{
	if (pin->record == record_id && pin->windows & window->kind)
		return true;
	if (!lb_is_member(window->first, window->count, pin->backend))
		return false;
	pin->windows = pin->record == record_id ? pin->windows | window->kind : window->kind;
	pin->record = record_id;
	return true;
}

/* The backend that the client is pinned to, or 0. */
static __always_inline __u32 affinity_find(const struct affinity_key *key, struct service service,
					   const struct record *record,
					   const struct lb_window *window)
{
	struct affinity *pin = bpf_map_lookup_elem(&kpb_affinity, key);
	const struct backend *backend;
	__u32 id, now_s;

	if (!pin || pin->generation != service.generation)
		return 0;
	now_s = affinity_now_s();
	/*
	 * Seconds are cut off: a pin may live a second too long, never too short. Signed, since
	 * another processor may have noted the next second after we read the clock.
	 */
	if ((__s32)(now_s - pin->last_use_s) > (__s32)record->affinity_timeout_s)
		return 0;
	id = pin->backend;
	backend = lb_backend(id);
	if (!backend || backend->generation != pin->backend_generation)
		return 0;
	if (!affinity_in_window(pin, service.record, window))
		return 0;
	pin->last_use_s = now_s;
	return id;
}

static __always_inline void affinity_pin(const struct affinity_key *key, struct service service,
					 const struct lb_window *window, __u32 id,
					 const struct backend *backend)
{
	struct affinity pin = {
		.backend = id,
		.backend_generation = backend->generation,
		.record = service.record,
		.windows = window->kind,
		.generation = service.generation,
		.last_use_s = affinity_now_s(),
	};

	bpf_map_update_elem(&kpb_affinity, key, &pin, BPF_ANY);
}
