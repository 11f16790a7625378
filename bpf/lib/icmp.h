/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Translates an ICMP error with the packet that it quotes, so that the host that sent that packet
 * finds its own addresses and ports in it.
 *
 * Checksums are changed by differences. The kernel is not told which of them cover a pseudo
 * header: each change is balanced by a checksum inside the packet, so the sum over all of it,
 * which the kernel may hold (CHECKSUM_COMPLETE), stays what it is.
 */
#pragma once

#ifdef KPB_XDP
#error "for TC only: XDP leaves ICMP errors to it"
#endif

#include "csum.h"
#include "packet.h"

struct icmp_ends {
	struct ip_addr source;
	struct ip_addr destination;
};

/* The two addresses of an IP header, and its checksum; the difference, negative on failure. */
static __always_inline int icmp_readdress(context *ctx, const struct packet *p, __u32 l3,
					  const struct icmp_ends *from, const struct icmp_ends *to)
{
	__u32 difference = csum_difference(from, to, sizeof(*to));
	__be32 ipv4[2] = {to->source.word[3], to->destination.word[3]};
	__u32 check = l3 + offsetof(struct iphdr, check);
	__u32 six = l3 + offsetof(struct ipv6_header, source);

	if (!p->ipv4)
		return bpf_skb_store_bytes(ctx, six, to, sizeof(*to), BPF_F_INVALIDATE_HASH)
			       ? -1
			       : (int)difference;
	if (bpf_l3_csum_replace(ctx, check, 0, difference, 0) ||
	    bpf_skb_store_bytes(ctx, l3 + offsetof(struct iphdr, saddr), ipv4, sizeof(ipv4),
				BPF_F_INVALIDATE_HASH))
		return -1;
	return difference;
}

static __always_inline int icmp_load_outer(context *ctx, const struct packet *p,
					   struct icmp_ends *ends)
{
	__be32 ipv4[2];

	if (!p->ipv4)
		return bpf_skb_load_bytes(ctx, p->l3 + offsetof(struct ipv6_header, source), ends,
					  sizeof(*ends));
	if (bpf_skb_load_bytes(ctx, p->l3 + offsetof(struct iphdr, saddr), ipv4, sizeof(ipv4)))
		return -1;
	ends->source = addr_from_ipv4(ipv4[0]);
	ends->destination = addr_from_ipv4(ipv4[1]);
	return 0;
}

/* The peer itself speaks in the name that the receiver knows it by, a router in its own. */
static __noinline int icmp_rewrite_outer(context *ctx, const struct packet *p,
					 const struct flow *flow)
{
	struct icmp_ends from, to;

	if (icmp_load_outer(ctx, p, &from))
		return -1;
	/* As netfilter does: a router's name would mean little, and to rp_filter less than that. */
	to.source = addr_equal(&flow->source, &p->tuple.source) ? from.source : flow->source;
	to.destination = flow->destination;
	return icmp_readdress(ctx, p, p->l3, &from, &to);
}

/* The quoted packet runs the other way. */
static __noinline int icmp_rewrite_inner(context *ctx, const struct packet *p,
					 const struct flow *flow)
{
	struct icmp_ends from = {p->tuple.destination, p->tuple.source};
	struct icmp_ends to = {flow->destination, flow->source};

	return icmp_readdress(ctx, p, p->inner_l3, &from, &to);
}

/*
 * The checksum of the quoted TCP segment or UDP datagram, if the quote reaches as far and there is
 * one; that of SCTP covers no address, and its ports are never changed. As with all others here,
 * the difference, negative on failure.
 */
static __noinline int icmp_rewrite_check(context *ctx, const struct packet *p, __u32 difference)
{
	bool udp = p->tuple.protocol == KPB_IPPROTO_UDP;
	__u32 at = p->inner_l4 +
		   (udp ? offsetof(struct udphdr, check) : offsetof(struct tcphdr, check));
	__u16 from, to;

	if (p->tuple.protocol == KPB_IPPROTO_SCTP || at + sizeof(from) > p->l3 + p->length)
		return 0;
	if (bpf_skb_load_bytes(ctx, at, &from, sizeof(from)))
		return -1;
	if (udp && !from)
		return 0;
	to = ~csum_fold((__u16)~from + difference);
	if (udp && !to)
		to = 0xffff;
	if (bpf_skb_store_bytes(ctx, at, &to, sizeof(to), 0))
		return -1;
	return csum_fold((__u16)~from + to);
}

static __always_inline int icmp_rewrite_ports(context *ctx, const struct packet *p,
					      const struct flow *flow)
{
	__be16 from[2] = {p->tuple.destination_port, p->tuple.source_port};
	__be16 to[2] = {flow->destination_port, flow->source_port};

	if (bpf_skb_store_bytes(ctx, p->inner_l4, to, sizeof(to), 0))
		return -1;
	return csum_difference(from, to, sizeof(to));
}

/*
 * `p` is an error about a packet of `flow`'s other direction: `flow` says what becomes of packets
 * of this one. 0, or negative if the packet cannot be written.
 */
static __noinline int icmp_rewrite(context *ctx, const struct packet *p, const struct flow *flow)
{
	__u32 icmp_check = p->l4 + offsetof(struct icmp_header, check);
	int outer, inner, ports, check;

	outer = icmp_rewrite_outer(ctx, p, flow);
	inner = icmp_rewrite_inner(ctx, p, flow);
	ports = icmp_rewrite_ports(ctx, p, flow);
	if (outer < 0 || inner < 0 || ports < 0)
		return -1;
	check = icmp_rewrite_check(ctx, p, inner + ports);
	if (check < 0)
		return -1;
	/* The quoted IPv4 header is balanced by its own checksum, the outer one is not covered. */
	if (p->ipv4)
		return bpf_l4_csum_replace(ctx, icmp_check, 0, ports + check, 0) ? -1 : 0;
	return bpf_l4_csum_replace(ctx, icmp_check, 0, outer + inner + ports + check, 0) ? -1 : 0;
}
