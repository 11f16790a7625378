/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* XDP: the packet path of TC, earlier, where a device has it. */
#include "kpb.h"
#include "kpb_packet_maps.h"

SEC("xdp")
int kpb_xdp(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}
