/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* XDP: the same path, earlier, for what needs neither the stack nor an answer of ours. */
#define KPB_XDP
#include "engine.h"

SEC("xdp.frags")
int kpb_xdp(struct xdp_md *ctx)
{
	return engine_ingress(ctx, true);
}

/* For kernels and drivers that know no frames of several buffers. */
SEC("xdp")
int kpb_xdp_linear(struct xdp_md *ctx)
{
	return engine_ingress(ctx, true);
}
