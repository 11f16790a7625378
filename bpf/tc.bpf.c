/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TC: the packet path on every device. */
#include <linux/pkt_cls.h>
#include "kpb.h"
#include "kpb_packet_maps.h"

static __always_inline int nothing(struct __sk_buff *ctx)
{
	__u32 key = 0;
	struct tuple tuple = {};
	struct fragment_key f = {};
	struct source_range_key r = {};

	if (!ctx->len)
		return !bpf_map_lookup_elem(&kpb_flows, &tuple) +
		       !bpf_map_lookup_elem(&kpb_flow_ring, &key) +
		       !bpf_map_lookup_elem(&kpb_flow_turn, &key) +
		       !bpf_map_lookup_elem(&kpb_fragments, &f) +
		       !bpf_map_lookup_elem(&kpb_devices, &key) +
		       !bpf_map_lookup_elem(&kpb_node, &key) +
		       !bpf_map_lookup_elem(&kpb_source_ranges, &r) +
		       !bpf_map_lookup_elem(&kpb_stats, &key) +
		       !bpf_map_lookup_elem(&kpb_vips, &tuple.source) + kpb_config.flags;
	return TC_ACT_UNSPEC;
}

SEC("tc")
int kpb_tc_ingress(struct __sk_buff *ctx)
{
	return nothing(ctx);
}

SEC("tc")
int kpb_tc_egress(struct __sk_buff *ctx)
{
	return nothing(ctx);
}

SEC("tc")
int kpb_tc_ingress_l3(struct __sk_buff *ctx)
{
	return nothing(ctx);
}

SEC("tc")
int kpb_tc_egress_l3(struct __sk_buff *ctx)
{
	return nothing(ctx);
}
