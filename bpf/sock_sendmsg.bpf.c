/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A UDP datagram with an address: every one passes here, and all of a socket go one way. */
#include "sock_lb.h"

static __always_inline int sock_sendmsg(struct bpf_sock_addr *ctx, enum sock_family family)
{
	struct dial dial = {
		.address = sock_destination(ctx, family),
		.port = sock_port(ctx),
		.protocol = KPB_IPPROTO_UDP,
		.host = sock_in_host_netns(ctx),
		.loopback_source = sock_sends_from_loopback(ctx, family),
		.family = family,
	};

	/* UDP-Lite passes here too and has no frontends. */
	if (ctx->protocol != KPB_IPPROTO_UDP)
		return 1;
	return verdict(sock_translate(ctx, &dial));
}

SEC("cgroup/sendmsg4")
int kpb_sendmsg4(struct bpf_sock_addr *ctx)
{
	return sock_sendmsg(ctx, SOCK_IPV4);
}

SEC("cgroup/sendmsg6")
int kpb_sendmsg6(struct bpf_sock_addr *ctx)
{
	return sock_sendmsg(ctx, SOCK_IPV6);
}
