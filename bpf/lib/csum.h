/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sums of internet checksums [RFC 1071, RFC 1624]: 16 bits, of bytes in memory as they are, not
 * complemented. What the helper returns has 32 bits on some kernels and 16 on others.
 *
 * IPv4 addresses may be mapped ones: the prefix adds 0xffff, which is zero to such a sum.
 */
#pragma once

#include "kpb.h"

static __always_inline __u16 csum_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* `size` is a multiple of 4. */
static __always_inline __u16 csum_of(const void *bytes, __u32 size)
{
	return csum_fold(bpf_csum_diff(NULL, 0, (__be32 *)bytes, size, 0));
}

/* What the sum changes by when one is replaced by the other. */
static __always_inline __u16 csum_difference(const void *from, const void *to, __u32 size)
{
	return csum_fold(bpf_csum_diff((__be32 *)from, size, (__be32 *)to, size, 0));
}
