/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A UDP datagram was received: an answer of a backend comes from the VIP. */
#include "reply.h"

static __always_inline int sock_recvmsg(struct bpf_sock_addr *ctx, enum sock_family family)
{
	if (reply_of_datagram(ctx, family))
		verdict_count(COUNT_REPLY);
	return 1;
}

SEC("cgroup/recvmsg4")
int kpb_recvmsg4(struct bpf_sock_addr *ctx)
{
	return sock_recvmsg(ctx, SOCK_IPV4);
}

/* Also an IPv6 socket that sent to an IPv4 VIP, in mapped form, is answered here. */
SEC("cgroup/recvmsg6")
int kpb_recvmsg6(struct bpf_sock_addr *ctx)
{
	return sock_recvmsg(ctx, SOCK_IPV6);
}
