/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Gives a packet other addresses and ports, and checksums to match.
 *
 * TC leaves it to the kernel's helpers, which know checksums that hardware will finish
 * (CHECKSUM_PARTIAL) or has summed up (CHECKSUM_COMPLETE). XDP knows frames as they are on the
 * wire. Both update checksums by the difference: a wrong one stays wrong.
 */
#pragma once

#include "packet.h"

static __always_inline __u32 rewrite_check_offset(__u8 protocol)
{
	return protocol == KPB_IPPROTO_TCP ? offsetof(struct tcphdr, check)
					   : offsetof(struct udphdr, check);
}

/* Only the addresses are covered by SCTP's checksum in no way; its ports are never changed. */
static __always_inline bool rewrite_has_transport(const struct packet *p)
{
	return p->fragment != FRAGMENT_LATER && p->tuple.protocol != KPB_IPPROTO_SCTP;
}

/* Both addresses are written, and summed up, as one run of 32 bytes. */
_Static_assert(offsetof(struct flow, destination) == offsetof(struct flow, source) + 16, "");
_Static_assert(offsetof(struct tuple, destination) == offsetof(struct tuple, source) + 16, "");

/* bpf_csum_diff() of one word, without a call. */
static __always_inline __u32 rewrite_difference(__be32 from, __be32 to, __u32 seed)
{
	__u64 sum = (__u64)(__u32)~from + to + seed;

	sum = (__u32)sum + (sum >> 32);
	return (__u32)sum + (__u32)(sum >> 32);
}

static __always_inline __u32 rewrite_ports_difference(const struct packet *p, const struct flow *to,
						      __u32 seed)
{
	__be32 from_ports = (__be32)p->tuple.destination_port << 16 | p->tuple.source_port;
	__be32 to_ports = (__be32)to->destination_port << 16 | to->source_port;

	return rewrite_difference(from_ports, to_ports, seed);
}

/* Of IPv4 addresses. */
static __always_inline __u32 rewrite_ipv4_difference(const struct packet *p, const struct flow *to)
{
	__u32 sum = rewrite_difference(p->tuple.source.word[3], to->source.word[3], 0);

	return rewrite_difference(p->tuple.destination.word[3], to->destination.word[3], sum);
}

/* RFC 1624: the complement of the sum of the complement and the difference. */
static __always_inline void rewrite_check(__u16 *check, __u32 difference)
{
	__u32 sum = (__u16) ~*check;

	sum += (difference & 0xffff) + (difference >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	*check = ~sum;
}

#ifndef KPB_XDP

static __always_inline int rewrite_transport(context *ctx, const struct packet *p,
					     const struct flow *to, __u32 difference)
{
	__u32 check = p->l4 + rewrite_check_offset(p->tuple.protocol);
	__u64 udp = p->tuple.protocol == KPB_IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;

	if (bpf_l4_csum_replace(ctx, check, 0, difference, BPF_F_PSEUDO_HDR | udp))
		return -1;
	return bpf_l4_csum_replace(ctx, check, 0, rewrite_ports_difference(p, to, 0), udp) ? -1 : 0;
}

static __always_inline int rewrite_ports(context *ctx, const struct packet *p,
					 const struct flow *to)
{
	__be16 ports[2] = {to->source_port, to->destination_port};

	return bpf_skb_store_bytes(ctx, p->l4, ports, sizeof(ports), 0) ? -1 : 0;
}

/* What changes of an IPv4 header, and of what follows it if it has no options: one write. */
struct rewrite_ipv4_end {
	__u16 check;
	__be16 source[2];
	__be16 destination[2];
	__be16 source_port;
	__be16 destination_port;
};

static __always_inline int rewrite_ipv4(context *ctx, const struct packet *p, const struct flow *to)
{
	__u32 difference = rewrite_ipv4_difference(p, to),
	      at = p->l3 + offsetof(struct iphdr, check);
	__u32 length = offsetof(struct rewrite_ipv4_end, source_port);
	const struct iphdr *ip = ctx_at(ctx, p->l3, sizeof(*ip));
	struct rewrite_ipv4_end end = {
		.source_port = to->source_port,
		.destination_port = to->destination_port,
	};

	if (!ip)
		return -1;
	end.check = ip->check;
	rewrite_check(&end.check, difference);
	__builtin_memcpy(end.source, &to->source.word[3], sizeof(end.source));
	__builtin_memcpy(end.destination, &to->destination.word[3], sizeof(end.destination));
	if (rewrite_has_transport(p)) {
		if (rewrite_transport(ctx, p, to, difference))
			return -1;
		if (p->l4 == p->l3 + sizeof(struct iphdr))
			length = sizeof(end);
		else if (rewrite_ports(ctx, p, to))
			return -1;
	}
	return bpf_skb_store_bytes(ctx, at, &end, length, 0) ? -1 : 0;
}

static __always_inline int rewrite_ipv6(context *ctx, const struct packet *p, const struct flow *to)
{
	__u32 difference =
		bpf_csum_diff((__be32 *)&p->tuple.source, 32, (__be32 *)&to->source, 32, 0);
	__u32 addresses = p->l3 + offsetof(struct ipv6_header, source);

	if (rewrite_has_transport(p) &&
	    (rewrite_transport(ctx, p, to, difference) || rewrite_ports(ctx, p, to)))
		return -1;
	/*
	 * The sum of the whole packet, if somebody has it. The helper for the transport's checksum
	 * takes it for changed, as it is with IPv4, whose header has a checksum of its own to
	 * change: here it is not. And where there is none to change, nothing balances the
	 * addresses.
	 */
	bpf_csum_update(ctx, difference);
	return bpf_skb_store_bytes(ctx, addresses, &to->source, 32, 0) ? -1 : 0;
}

/* One hop less to live, as behind a router. */
static __always_inline int rewrite_hops(context *ctx, const struct packet *p)
{
	struct {
		__u8 hops;
		__u8 protocol;
		__u16 check;
	} end = {.hops = p->hops - 1};
	const struct iphdr *ip;

	if (!p->ipv4) /* no checksum of the header's own balances it in the sum of the packet */
		return bpf_skb_store_bytes(ctx, p->l3 + offsetof(struct ipv6_header, hop_limit),
					   &end.hops, 1, BPF_F_RECOMPUTE_CSUM)
			       ? -1
			       : 0;
	ip = ctx_at(ctx, p->l3, sizeof(*ip));
	if (!ip)
		return -1;
	end.protocol = ip->protocol;
	end.check = ip->check;
	rewrite_check(&end.check, (__u16)~bpf_htons(0x100));
	return bpf_skb_store_bytes(ctx, p->l3 + offsetof(struct iphdr, ttl), &end, sizeof(end), 0)
		       ? -1
		       : 0;
}

#else

static __always_inline int rewrite_transport(context *ctx, const struct packet *p,
					     const struct flow *to, __u32 difference)
{
	bool udp = p->tuple.protocol == KPB_IPPROTO_UDP;
	struct udphdr *ports = ctx_at(ctx, p->l4, sizeof(*ports));
	__u16 *check;

	if (!ports)
		return -1;
	ports->source = to->source_port;
	ports->dest = to->destination_port;
	check = ctx_at(ctx, p->l4 + rewrite_check_offset(p->tuple.protocol), sizeof(*check));
	if (!check)
		return -1;
	if (udp && !*check)
		return 0;
	rewrite_check(check, rewrite_ports_difference(p, to, difference));
	if (udp && !*check)
		*check = 0xffff;
	return 0;
}

static __always_inline int rewrite_ipv4(context *ctx, const struct packet *p, const struct flow *to)
{
	__u32 difference = rewrite_ipv4_difference(p, to);
	struct iphdr *ip;

	if (rewrite_has_transport(p) && rewrite_transport(ctx, p, to, difference))
		return -1;
	ip = ctx_at(ctx, p->l3, sizeof(*ip));
	if (!ip)
		return -1;
	ip->saddr = to->source.word[3];
	ip->daddr = to->destination.word[3];
	rewrite_check(&ip->check, difference);
	return 0;
}

static __always_inline int rewrite_ipv6(context *ctx, const struct packet *p, const struct flow *to)
{
	__u32 difference =
		bpf_csum_diff((__be32 *)&p->tuple.source, 32, (__be32 *)&to->source, 32, 0);
	struct ipv6_header *ip;

	if (rewrite_has_transport(p) && rewrite_transport(ctx, p, to, difference))
		return -1;
	ip = ctx_at(ctx, p->l3, sizeof(*ip));
	if (!ip)
		return -1;
	ip->source = to->source;
	ip->destination = to->destination;
	return 0;
}

/* One hop less to live, as behind a router. */
static __always_inline int rewrite_hops(context *ctx, const struct packet *p)
{
	struct ipv6_header *ipv6 = ctx_at(ctx, p->l3, sizeof(*ipv6));
	struct iphdr *ip = ctx_at(ctx, p->l3, sizeof(*ip));

	if (!ip)
		return -1;
	if (p->ipv4) {
		ip->ttl--;
		rewrite_check(&ip->check, (__u16)~bpf_htons(0x100));
		return 0;
	}
	if (!ipv6)
		return -1;
	ipv6->hop_limit--;
	return 0;
}

#endif

/* 0, or -1: the packet cannot be written, and may be half changed. */
static __always_inline int rewrite(context *ctx, const struct packet *p, const struct flow *to)
{
	return p->ipv4 ? rewrite_ipv4(ctx, p, to) : rewrite_ipv6(ctx, p, to);
}
