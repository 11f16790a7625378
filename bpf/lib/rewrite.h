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

#ifndef KPB_XDP

static __always_inline int rewrite_transport(context *ctx, const struct packet *p,
					     const struct flow *to, __u32 difference)
{
	__u32 check = p->l4 + rewrite_check_offset(p->tuple.protocol);
	__u64 udp = p->tuple.protocol == KPB_IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	__be16 from_ports[2] = {p->tuple.source_port, p->tuple.destination_port};
	__be16 to_ports[2] = {to->source_port, to->destination_port};
	__u32 ports;

	if (bpf_l4_csum_replace(ctx, check, 0, difference, BPF_F_PSEUDO_HDR | udp))
		return -1;
	ports = bpf_csum_diff((__be32 *)from_ports, 4, (__be32 *)to_ports, 4, 0);
	if (bpf_l4_csum_replace(ctx, check, 0, ports, udp))
		return -1;
	return bpf_skb_store_bytes(ctx, p->l4, to_ports, sizeof(to_ports), 0) ? -1 : 0;
}

static __always_inline int rewrite_ipv4(context *ctx, const struct packet *p, const struct flow *to)
{
	__be32 from_addresses[2] = {p->tuple.source.word[3], p->tuple.destination.word[3]};
	__be32 to_addresses[2] = {to->source.word[3], to->destination.word[3]};
	__u32 check = p->l3 + offsetof(struct iphdr, check);
	__u32 addresses = p->l3 + offsetof(struct iphdr, saddr);
	__u32 difference = bpf_csum_diff(from_addresses, 8, to_addresses, 8, 0);

	if (rewrite_has_transport(p) && rewrite_transport(ctx, p, to, difference))
		return -1;
	if (bpf_l3_csum_replace(ctx, check, 0, difference, 0))
		return -1;
	return bpf_skb_store_bytes(ctx, addresses, to_addresses, 8, 0) ? -1 : 0;
}

static __always_inline int rewrite_ipv6(context *ctx, const struct packet *p, const struct flow *to)
{
	__u32 difference =
		bpf_csum_diff((__be32 *)&p->tuple.source, 32, (__be32 *)&to->source, 32, 0);
	__u32 addresses = p->l3 + offsetof(struct ipv6_header, source);

	if (rewrite_has_transport(p)) {
		if (rewrite_transport(ctx, p, to, difference))
			return -1;
		/*
		 * The helper takes the sum of the whole packet for changed, as it is with IPv4,
		 * whose header has a checksum of its own to change. Here it is not.
		 */
		bpf_csum_update(ctx, difference);
	}
	return bpf_skb_store_bytes(ctx, addresses, &to->source, 32, 0) ? -1 : 0;
}

/* One hop less to live, as behind a router. */
static __always_inline int rewrite_hops(context *ctx, const struct packet *p)
{
	__u32 at = p->l3 + (p->ipv4 ? offsetof(struct iphdr, ttl)
				    : offsetof(struct ipv6_header, hop_limit));
	__u8 hops = p->hops - 1;

	/* The 16 bits are time to live and protocol: the second does not change. */
	if (p->ipv4 && bpf_l3_csum_replace(ctx, p->l3 + offsetof(struct iphdr, check),
					   bpf_htons(p->hops << 8), bpf_htons(hops << 8), 2))
		return -1;
	return bpf_skb_store_bytes(ctx, at, &hops, 1, 0) ? -1 : 0;
}

#else

/* RFC 1624: the complement of the sum of the complement and the difference. */
static __always_inline void rewrite_check(__u16 *check, __u32 difference)
{
	__u32 sum = (__u16) ~*check;

	sum += (difference & 0xffff) + (difference >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	*check = ~sum;
}

static __always_inline int rewrite_transport(context *ctx, const struct packet *p,
					     const struct flow *to, __u32 difference)
{
	__be16 from_ports[2] = {p->tuple.source_port, p->tuple.destination_port};
	__be16 to_ports[2] = {to->source_port, to->destination_port};
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
	rewrite_check(check,
		      bpf_csum_diff((__be32 *)from_ports, 4, (__be32 *)to_ports, 4, difference));
	if (udp && !*check)
		*check = 0xffff;
	return 0;
}

static __always_inline int rewrite_ipv4(context *ctx, const struct packet *p, const struct flow *to)
{
	__be32 from_addresses[2] = {p->tuple.source.word[3], p->tuple.destination.word[3]};
	__be32 to_addresses[2] = {to->source.word[3], to->destination.word[3]};
	__u32 difference = bpf_csum_diff(from_addresses, 8, to_addresses, 8, 0);
	struct iphdr *ip;

	if (rewrite_has_transport(p) && rewrite_transport(ctx, p, to, difference))
		return -1;
	ip = ctx_at(ctx, p->l3, sizeof(*ip));
	if (!ip)
		return -1;
	ip->saddr = to_addresses[0];
	ip->daddr = to_addresses[1];
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
