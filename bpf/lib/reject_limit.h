/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether a packet is answered at all: by what it is, and by how many were answered lately.
 */
#pragma once

#include "packet.h"
#include "verdict.h"

/* How a frame was addressed, of a header that a BPF build cannot include. */
enum { KPB_PACKET_BROADCAST = 1, KPB_PACKET_MULTICAST = 2 };

/* One answer costs as many credits as a second has nanoseconds: nothing is divided. */
struct reject_bucket {
	__u64 filled_ns;
	__u64 credit;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct reject_bucket);
} kpb_reject_limit SEC(".maps") __weak;

static __always_inline __u64 reject_now_ns(void)
{
	return kernel_has(ktime_get_coarse_ns) ? bpf_ktime_get_coarse_ns() : bpf_ktime_get_ns();
}

/* Up to the answers of one second at once. */
static __noinline bool reject_is_within_limit(void)
{
	const __u64 second_ns = 1000000000;
	__u64 now_ns = reject_now_ns(), most = second_ns * kpb_config.rejects_per_s, passed_ns;
	struct reject_bucket *bucket;
	__u32 key = 0;

	bucket = bpf_map_lookup_elem(&kpb_reject_limit, &key);
	if (!bucket)
		return false;
	passed_ns = now_ns - bucket->filled_ns;
	if (passed_ns > second_ns)
		passed_ns = second_ns;
	bucket->filled_ns = now_ns;
	bucket->credit += passed_ns * kpb_config.rejects_per_s;
	if (bucket->credit > most)
		bucket->credit = most;
	if (bucket->credit < second_ns)
		return false;
	bucket->credit -= second_ns;
	return true;
}

/* No single host, or none that could have sent it [RFC 1122, 3.2.2; RFC 4443, 2.4 (e)]. */
static __always_inline bool reject_is_no_client(const struct ip_addr *source, bool to_host)
{
	__u32 last = bpf_ntohl(source->word[3]);

	if (addr_is_wildcard(source) || (!to_host && addr_is_loopback(source)))
		return true;
	if (addr_is_ipv4(source))
		return last >= 0xe0000000;
	return bpf_ntohl(source->word[0]) >> 24 == 0xff;
}

static __noinline bool reject_may_answer(context *ctx, const struct packet *p, bool to_host)
{
	__u32 sent_to = ctx->pkt_type;

	if (p->fragment == FRAGMENT_LATER || p->inner_l3)
		return false;
	if (sent_to == KPB_PACKET_BROADCAST || sent_to == KPB_PACKET_MULTICAST)
		return false;
	if (reject_is_no_client(&p->tuple.source, to_host))
		return false;
	if (reject_is_within_limit())
		return true;
	verdict_count(COUNT_REJECTS_LIMITED);
	return false;
}
