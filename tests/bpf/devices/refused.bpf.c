/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The packet object as a kernel sees it that refuses the programs named by -D. */
#include <linux/pkt_cls.h>
#include "kpb.h"
#include "kpb_packet_maps.h"

char kpb_license[] SEC("license") = "Dual BSD/GPL";

struct enums {
	enum config_flags config_flags;
};

const volatile struct enums enums = {};

/* Reads past what was checked: no verifier takes it. */
#define REFUSED(ctx) (*(volatile __u8 *)(long)(ctx)->data)

SEC("tc")
int kpb_tc_ingress(struct __sk_buff *ctx)
{
	struct ip_addr address = {};

#ifdef REFUSE_TC
	return REFUSED(ctx);
#endif
	return bpf_map_lookup_elem(&kpb_vips, &address) ? kpb_config.flags : TC_ACT_UNSPEC;
}

SEC("tc")
int kpb_tc_ingress_l3(struct __sk_buff *ctx)
{
	(void)ctx;
	return TC_ACT_UNSPEC;
}

SEC("xdp.frags")
int kpb_xdp(struct xdp_md *ctx)
{
#ifdef REFUSE_FRAGS
	return REFUSED(ctx);
#endif
	return XDP_PASS;
}

SEC("xdp")
int kpb_xdp_linear(struct xdp_md *ctx)
{
#ifdef REFUSE_XDP
	return REFUSED(ctx);
#endif
	return XDP_PASS;
}
