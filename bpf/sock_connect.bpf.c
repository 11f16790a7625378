/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* connect(): the destination is translated before the first packet exists. */
#include "sock_lb.h"

static __always_inline int sock_connect(struct bpf_sock_addr *ctx, enum sock_family family)
{
	struct dial dial = {
		.address = sock_destination(ctx, family),
		.port = sock_port(ctx),
		.protocol = ctx->protocol,
		.connect = true,
		.host = sock_in_host_netns(ctx),
		.loopback_source = sock_has_loopback_source(ctx, family),
		.family = family,
	};

	if (!dial.host)
		verdict_count(COUNT_OTHER_NETNS);
	return verdict(sock_translate(ctx, &dial));
}

SEC("cgroup/connect4")
int kpb_connect4(struct bpf_sock_addr *ctx)
{
	return sock_connect(ctx, SOCK_IPV4);
}

SEC("cgroup/connect6")
int kpb_connect6(struct bpf_sock_addr *ctx)
{
	return sock_connect(ctx, SOCK_IPV6);
}
