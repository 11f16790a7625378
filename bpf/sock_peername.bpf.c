/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* getpeername(): a socket sees what it dialled. */
#include "reply.h"

static __always_inline int sock_peername(struct bpf_sock_addr *ctx, enum sock_family family)
{
	if (ctx->protocol == KPB_IPPROTO_TCP)
		reply_of_origin(ctx, family);
	else
		reply_of_peer(ctx, family);
	return 1;
}

SEC("cgroup/getpeername4")
int kpb_peername4(struct bpf_sock_addr *ctx)
{
	return sock_peername(ctx, SOCK_IPV4);
}

SEC("cgroup/getpeername6")
int kpb_peername6(struct bpf_sock_addr *ctx)
{
	return sock_peername(ctx, SOCK_IPV6);
}
