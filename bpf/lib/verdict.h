/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Ways out. Every decision is a reason (enum counter); here, and only here, a reason becomes a
 * count and what the kernel does: go on, or fail the system call with an errno of the network.
 * Where the kernel cannot set the errno the destination is left alone: never EPERM, which
 * applications take for a configuration error and do not retry.
 */
#pragma once

#include "kpb.h"

static __always_inline void verdict_count(enum counter reason)
{
	__u32 index = reason;
	__u64 *count = bpf_map_lookup_elem(&kpb_counters, &index);

	if (count)
		*count += 1;
}

static __always_inline int verdict_fail(int error)
{
	if (!kernel_has(set_retval))
		return 1;
	bpf_set_retval(-error);
	return 0;
}

static __always_inline int verdict(enum counter reason)
{
	if (reason == COUNT_NONE)
		return 1;
	verdict_count(reason);
	switch (reason) {
	case COUNT_NO_ENDPOINTS:
	case COUNT_UNKNOWN_PORT:
	case COUNT_HALF_STATE:
		return verdict_fail(KPB_ECONNREFUSED);
	case COUNT_NO_LOCAL_ENDPOINT:
		return verdict_fail(KPB_EHOSTUNREACH);
	case COUNT_BIND_REFUSED:
		return verdict_fail(KPB_EADDRINUSE);
	default:
		return 1;
	}
}
