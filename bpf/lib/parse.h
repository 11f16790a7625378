/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From the bytes of a packet to its tuple. Nothing is read that was not checked to be there.
 *
 * Parsed: Ethernet or bare IP, IPv4 with options, IPv6 with extension headers, fragments, TCP,
 * UDP, SCTP, and ICMP errors, whose tuple is that of the flow they belong to. Whatever else comes
 * is left alone: frames with a VLAN tag too, since the VLAN device has programs of its own.
 */
#pragma once

#include "packet.h"

/* The packet inside an error is one of the other direction. */
static __always_inline enum packet_kind packet_inner_ipv4(context *ctx, struct packet *p)
{
	const struct iphdr *ip = ctx_header(ctx, p->inner_l3, sizeof(*ip));
	const struct udphdr *ports;

	if (!ip || ip->version != 4 || ip->ihl < 5)
		return PACKET_MALFORMED;
	if (ip->frag_off & bpf_htons(0x1fff) || !packet_has_ports(ip->protocol))
		return PACKET_OTHER;
	p->inner_l4 = p->inner_l3 + ip->ihl * 4;
	p->tuple.source = addr_from_ipv4(ip->daddr);
	p->tuple.destination = addr_from_ipv4(ip->saddr);
	p->tuple.protocol = ip->protocol;
	ports = ctx_header(ctx, p->inner_l4, sizeof(*ports));
	if (!ports)
		return PACKET_MALFORMED;
	p->tuple.source_port = ports->dest;
	p->tuple.destination_port = ports->source;
	return PACKET_ICMP_ERROR;
}

/* The next header behind a fragment header, if the packet inside an error is a first fragment. */
static __always_inline __u8 packet_inner_fragment(context *ctx, struct packet *p)
{
	const struct ipv6_extension *extension = ctx_header(ctx, p->inner_l4, sizeof(*extension));

	if (!extension || extension->fragment & bpf_htons(0xfff8))
		return 0;
	p->inner_l4 += sizeof(*extension);
	return extension->next;
}

/*
 * A mapped address stands for IPv4 in all our keys. In an IPv6 header it would pass for a packet of
 * an IPv4 flow; the kernel drops such packets.
 */
static __always_inline bool parse_is_mapped(const struct ipv6_header *ip)
{
	return addr_is_ipv4(&ip->source) || addr_is_ipv4(&ip->destination);
}

static __always_inline enum packet_kind packet_inner_ipv6(context *ctx, struct packet *p)
{
	const struct ipv6_header *ip = ctx_header(ctx, p->inner_l3, sizeof(*ip));
	const struct udphdr *ports;

	if (!ip || ip->version_and_class >> 4 != 6 || parse_is_mapped(ip))
		return PACKET_MALFORMED;
	p->inner_l4 = p->inner_l3 + sizeof(*ip);
	p->tuple.source = ip->destination;
	p->tuple.destination = ip->source;
	p->tuple.protocol = ip->next_header;
	if (p->tuple.protocol == IPV6_FRAGMENT)
		p->tuple.protocol = packet_inner_fragment(ctx, p);
	if (!packet_has_ports(p->tuple.protocol))
		return PACKET_OTHER;
	ports = ctx_header(ctx, p->inner_l4, sizeof(*ports));
	if (!ports)
		return PACKET_MALFORMED;
	p->tuple.source_port = ports->dest;
	p->tuple.destination_port = ports->source;
	return PACKET_ICMP_ERROR;
}

static __noinline enum packet_kind packet_icmp(context *ctx, struct packet *p)
{
	enum packet_kind kind = PACKET_OTHER;
	const struct icmp_header *icmp;
	__u8 type;

	if (p->fragment != FRAGMENT_NONE)
		return PACKET_OTHER;
	icmp = ctx_header(ctx, p->l4, sizeof(*icmp));
	if (!icmp)
		return PACKET_MALFORMED;
	type = icmp->type;
	p->inner_l3 = p->l4 + sizeof(*icmp);
	if (!p->ipv4)
		kind = type >= ICMPV6_DEST_UNREACH && type <= ICMPV6_PARAMPROB
			       ? packet_inner_ipv6(ctx, p)
			       : PACKET_OTHER;
	else if (type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED ||
		 type == ICMP_PARAMETERPROB)
		kind = packet_inner_ipv4(ctx, p);
	/* What follows the packet in its frame is no quote: no checksum covers it. */
	if (kind == PACKET_ICMP_ERROR &&
	    p->inner_l4 + sizeof(struct udphdr) > (__u32)p->l3 + p->length)
		return PACKET_MALFORMED;
	return kind;
}

static __always_inline enum packet_kind packet_payload(context *ctx, struct packet *p)
{
	__u8 icmp = p->ipv4 ? KPB_IPPROTO_ICMP : KPB_IPPROTO_ICMPV6;

	if (packet_has_ports(p->tuple.protocol))
		return packet_transport(ctx, p);
	return p->tuple.protocol == icmp ? packet_icmp(ctx, p) : PACKET_OTHER;
}

static __always_inline enum packet_kind packet_ipv4(context *ctx, struct packet *p)
{
	const struct iphdr *ip = ctx_header(ctx, p->l3, sizeof(*ip));
	__be16 fragment;
	__u32 length;

	if (!ip || ip->version != 4 || ip->ihl < 5)
		return PACKET_MALFORMED;
	length = bpf_ntohs(ip->tot_len);
	if (!length && ctx_segment(ctx)) /* BIG TCP: more than 16 bits can tell */
		length = ctx_length(ctx) - p->l3;
	if (length < ip->ihl * 4 || p->l3 + length > ctx_length(ctx))
		return PACKET_MALFORMED;
	p->length = length > 0xffff ? 0xffff : length; /* of a segment, where there are several */
	p->ipv4 = true;
	p->l4 = p->l3 + ip->ihl * 4;
	p->hops = ip->ttl;
	p->tuple.source = addr_from_ipv4(ip->saddr);
	p->tuple.destination = addr_from_ipv4(ip->daddr);
	p->tuple.protocol = ip->protocol;
	fragment = ip->frag_off;
	p->may_fragment = !(fragment & bpf_htons(0x4000));
	p->fragment_id = ip->id;
	if (fragment & bpf_htons(0x1fff))
		p->fragment = FRAGMENT_LATER;
	else if (fragment & bpf_htons(0x2000))
		p->fragment = FRAGMENT_FIRST;
	return packet_payload(ctx, p);
}

/* Walk to the payload; what it is ends up in tuple.protocol, where it is in l4. */
static __noinline int packet_ipv6_extensions(context *ctx, struct packet *p)
{
	for (int i = 0; i < IPV6_EXTENSIONS; i++) {
		const struct ipv6_extension *extension;
		__u8 kind = p->tuple.protocol;

		if (kind != IPV6_HOP_BY_HOP && kind != IPV6_ROUTING && kind != IPV6_FRAGMENT &&
		    kind != IPV6_AUTH && kind != IPV6_OPTIONS)
			return 0;
		extension = ctx_header(ctx, p->l4, sizeof(*extension));
		if (!extension)
			return -1;
		p->tuple.protocol = extension->next;
		if (kind == IPV6_FRAGMENT) {
			p->fragment_id = extension->id;
			if (extension->fragment & bpf_htons(0xfff8))
				p->fragment = FRAGMENT_LATER;
			else if (extension->fragment & bpf_htons(1))
				p->fragment = FRAGMENT_FIRST;
			p->l4 += 8;
			if (p->fragment == FRAGMENT_LATER)
				return 0;
		} else if (kind == IPV6_AUTH) {
			p->l4 += (extension->length + 2) * 4;
		} else {
			p->l4 += (extension->length + 1) * 8;
		}
	}
	return 0;
}

static __always_inline enum packet_kind packet_ipv6(context *ctx, struct packet *p)
{
	const struct ipv6_header *ip = ctx_header(ctx, p->l3, sizeof(*ip));
	__u32 length;

	if (!ip || ip->version_and_class >> 4 != 6 || parse_is_mapped(ip))
		return PACKET_MALFORMED;
	length = bpf_ntohs(ip->payload_length) + sizeof(*ip);
	if (!ip->payload_length && ctx_segment(ctx)) /* BIG TCP, as above */
		length = ctx_length(ctx) - p->l3;
	if (p->l3 + length > ctx_length(ctx))
		return PACKET_MALFORMED;
	p->length = length > 0xffff ? 0xffff : length;
	p->l4 = p->l3 + sizeof(*ip);
	p->hops = ip->hop_limit;
	p->tuple.source = ip->source;
	p->tuple.destination = ip->destination;
	p->tuple.protocol = ip->next_header;
	if (!packet_has_ports(ip->next_header) && ip->next_header != KPB_IPPROTO_ICMPV6 &&
	    packet_ipv6_extensions(ctx, p))
		return PACKET_MALFORMED;
	return packet_payload(ctx, p);
}

/* `ethernet` is a constant of each program: other devices begin with the IP header. */
static __always_inline enum packet_kind packet_parse(context *ctx, struct packet *p, bool ethernet)
{
	const struct ethhdr *eth;
	const __u8 *first;

	*p = (struct packet){};
	if (ctx_is_tagged(ctx))
		return PACKET_OTHER;
	if (ethernet) {
		eth = ctx_header(ctx, 0, sizeof(*eth));
		if (!eth)
			return PACKET_OTHER;
		p->l3 = sizeof(*eth);
		if (eth->h_proto == bpf_htons(ETH_P_IP))
			return packet_ipv4(ctx, p);
		return eth->h_proto == bpf_htons(ETH_P_IPV6) ? packet_ipv6(ctx, p) : PACKET_OTHER;
	}
	first = ctx_header(ctx, 0, 1);
	if (!first)
		return PACKET_OTHER;
	return *first >> 4 == 4 ? packet_ipv4(ctx, p) : packet_ipv6(ctx, p);
}
