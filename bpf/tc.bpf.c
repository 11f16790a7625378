/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * TC: the packet path on every device, with and without Ethernet header. What is not ours goes on
 * to the programs behind (TC_ACT_UNSPEC).
 */
#include "engine.h"

SEC("tc")
int kpb_tc_ingress(struct __sk_buff *ctx)
{
	return engine_ingress(ctx, true);
}

SEC("tc")
int kpb_tc_egress(struct __sk_buff *ctx)
{
	return engine_egress(ctx, true);
}

SEC("tc")
int kpb_tc_ingress_l3(struct __sk_buff *ctx)
{
	return engine_ingress(ctx, false);
}

SEC("tc")
int kpb_tc_egress_l3(struct __sk_buff *ctx)
{
	return engine_egress(ctx, false);
}
