/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Highest random weight: every backend is weighed against the client, the heaviest wins. No
 * table, the same answer on every node that has the same endpoints, and only the flows of a
 * backend that leaves move. Costs time in proportion to the endpoints, for new flows alone.
 */
#pragma once

#include "lb.h"

struct consistent_scan {
	__u32 first;
	__u32 client;
	__u32 heaviest;
	__u32 found;
};

static __always_inline __u32 consistent_mix(__u32 hash, __u32 word)
{
	hash ^= word * 0xcc9e2d51;
	hash = (hash << 13 | hash >> 19) * 5 + 0xe6546b64;
	return hash;
}

static __always_inline __u32 consistent_finish(__u32 hash)
{
	hash ^= hash >> 16;
	hash *= 0x85ebca6b;
	hash ^= hash >> 13;
	hash *= 0xc2b2ae35;
	return hash ^ hash >> 16;
}

static __always_inline __u32 consistent_address(__u32 hash, const struct ip_addr *address)
{
	for (int i = 0; i < 4; i++)
		hash = consistent_mix(hash, address->word[i]);
	return hash;
}

/* What stands for a client; without a port all its connections go one way. */
static __always_inline __u32 consistent_client(const struct ip_addr *address, __be16 port)
{
	return consistent_finish(consistent_mix(consistent_address(0x6b7062, address), port));
}

static long consistent_weigh(__u32 step, struct consistent_scan *scan)
{
	__u32 id = lb_slot(scan->first + step);
	const struct backend *backend = lb_backend(id);
	__u32 weight;

	if (!backend)
		return 0;
	weight = consistent_address(scan->client, &backend->address);
	weight = consistent_finish(consistent_mix(weight, backend->port));
	if (scan->found && weight <= scan->heaviest)
		return 0;
	scan->heaviest = weight;
	scan->found = id;
	return 0;
}

/* Without bpf_loop() the first LB_SCAN_BOUND endpoints take part. */
__weak __noinline int consistent_backend(__u32 first, __u32 count, __u32 client)
{
	struct consistent_scan scan = {.first = first, .client = client};

	if (kernel_has(loop)) {
		bpf_loop(count, consistent_weigh, &scan, 0);
	} else {
		for (__u32 i = 0; i < LB_SCAN_BOUND && i < count; i++)
			consistent_weigh(i, &scan);
	}
	return scan.found;
}
