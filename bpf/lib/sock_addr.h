/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Reading and writing the address of a system call, in the form of the maps. The IPv6 hooks also
 * see IPv6 sockets that speak IPv4: their v4-mapped addresses are the form of the maps already.
 */
#pragma once

#include "addr.h"

enum sock_family { SOCK_IPV4, SOCK_IPV6 };

static __always_inline struct ip_addr sock_address(const struct bpf_sock_addr *ctx,
						   enum sock_family family)
{
	if (family == SOCK_IPV4)
		return addr_from_ipv4(ctx->user_ip4);
	return (struct ip_addr){
		{ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]}};
}

static __always_inline __be16 sock_port(const struct bpf_sock_addr *ctx)
{
	return ctx->user_port;
}

static __always_inline void sock_set_address(struct bpf_sock_addr *ctx, enum sock_family family,
					     const struct ip_addr *address, __be16 port)
{
	ctx->user_port = port;
	if (family == SOCK_IPV4) {
		ctx->user_ip4 = address->word[3];
		return;
	}
	ctx->user_ip6[0] = address->word[0];
	ctx->user_ip6[1] = address->word[1];
	ctx->user_ip6[2] = address->word[2];
	ctx->user_ip6[3] = address->word[3];
}

/* The address that a program dials, as the kernel will understand it. */
static __always_inline struct ip_addr sock_destination(const struct bpf_sock_addr *ctx,
						       enum sock_family family)
{
	struct ip_addr address = sock_address(ctx, family);

	return addr_destination(&address);
}

/* Whether the socket is bound to a source from which only this host can be reached. */
static __always_inline bool sock_has_loopback_source(const struct bpf_sock_addr *ctx,
						     enum sock_family family)
{
	struct bpf_sock *sk = ctx->sk;
	struct ip_addr source;

	if (family == SOCK_IPV4)
		source = addr_from_ipv4(sk->src_ip4);
	else
		source = (struct ip_addr){
			{sk->src_ip6[0], sk->src_ip6[1], sk->src_ip6[2], sk->src_ip6[3]}};
	return addr_is_loopback(&source);
}

/* The same for a datagram, whose control message may name a source of its own. */
static __always_inline bool sock_sends_from_loopback(const struct bpf_sock_addr *ctx,
						     enum sock_family family)
{
	struct ip_addr source;

	if (family == SOCK_IPV4)
		source = addr_from_ipv4(ctx->msg_src_ip4);
	else
		source = (struct ip_addr){{ctx->msg_src_ip6[0], ctx->msg_src_ip6[1],
					   ctx->msg_src_ip6[2], ctx->msg_src_ip6[3]}};
	return addr_is_loopback(&source);
}

static __always_inline bool sock_in_host_netns(void *ctx)
{
	return bpf_get_netns_cookie(ctx) == kpb_config.host_netns;
}
