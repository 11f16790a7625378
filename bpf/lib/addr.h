/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Addresses of 16 bytes, IPv4 as v4-mapped, so that one piece of code serves both families and
 * also IPv6 sockets that speak IPv4. All words are in wire order.
 */
#pragma once

#include "kpb.h"

static __always_inline struct ip_addr addr_from_ipv4(__be32 ipv4)
{
	return (struct ip_addr){{0, 0, bpf_htonl(0xffff), ipv4}};
}

static __always_inline bool addr_is_ipv4(const struct ip_addr *a)
{
	return !a->word[0] && !a->word[1] && a->word[2] == bpf_htonl(0xffff);
}

static __always_inline bool addr_equal(const struct ip_addr *a, const struct ip_addr *b)
{
	return a->word[3] == b->word[3] && a->word[2] == b->word[2] && a->word[1] == b->word[1] &&
	       a->word[0] == b->word[0];
}

/* Neither of the two wildcards. */
static __always_inline bool addr_is_set(const struct ip_addr *a)
{
	return a->word[3] || a->word[0] || a->word[1];
}

/* ::ffff:0.0.0.0 or :: */
static __always_inline struct ip_addr addr_wildcard(bool ipv4)
{
	return (struct ip_addr){{0, 0, ipv4 ? bpf_htonl(0xffff) : 0, 0}};
}

/* ::ffff:127.0.0.1 or ::1 */
static __always_inline struct ip_addr addr_loopback(bool ipv4)
{
	if (ipv4)
		return addr_from_ipv4(bpf_htonl(0x7f000001));
	return (struct ip_addr){{0, 0, 0, bpf_htonl(1)}};
}

static __always_inline bool addr_is_wildcard(const struct ip_addr *a)
{
	return !a->word[3] && !a->word[0] && !a->word[1] &&
	       (!a->word[2] || a->word[2] == bpf_htonl(0xffff));
}

/*
 * Where a packet to the address goes: the kernel takes 0.0.0.0 and :: for loopback. Of few
 * branches, since the verifier walks through all that follows once for each.
 */
static __always_inline struct ip_addr addr_destination(const struct ip_addr *a)
{
	__be32 last = a->word[2] ? bpf_htonl(0x7f000001) : bpf_htonl(1);
	__be32 rest = a->word[0] | a->word[1] | a->word[3];
	struct ip_addr to = *a;

	if (!rest && (!a->word[2] || a->word[2] == bpf_htonl(0xffff)))
		to.word[3] = last;
	return to;
}

static __always_inline bool addr_is_loopback(const struct ip_addr *a)
{
	if (a->word[0] || a->word[1])
		return false;
	if (a->word[2] == bpf_htonl(0xffff))
		return (a->word[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !a->word[2] && a->word[3] == bpf_htonl(1);
}

/*
 * No host of the network sends from it: unspecified, loopback, multicast or broadcast. Input
 * routing drops such packets; those that leave by redirection never meet it.
 */
static __always_inline bool addr_is_martian(const struct ip_addr *a)
{
	__u32 last = bpf_ntohl(a->word[3]), first = last >> 24;

	if (addr_is_ipv4(a))
		return !first || first == 127 || last >> 28 == 0xe || last == 0xffffffff;
	return addr_is_wildcard(a) || addr_is_loopback(a) || bpf_ntohl(a->word[0]) >> 24 == 0xff;
}
