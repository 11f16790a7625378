/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From the bytes of a packet to its tuple. Every bounds check of headers is here.
 *
 * Parsed: Ethernet or bare IP, IPv4 with options, IPv6 with extension headers, fragments, TCP,
 * UDP, SCTP, and ICMP errors, whose tuple is that of the flow they belong to. Whatever else comes
 * is left alone: frames with a VLAN tag too, since the VLAN device has programs of its own.
 */
#pragma once

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include "addr.h"
#include "ctx.h"

enum { KPB_IPPROTO_ICMP = 1, KPB_IPPROTO_ICMPV6 = 58, KPB_IPPROTO_SCTP = 132 };
enum { IPV6_EXTENSIONS = 6 };
enum {
	IPV6_HOP_BY_HOP = 0,
	IPV6_ROUTING = 43,
	IPV6_FRAGMENT = 44,
	IPV6_AUTH = 51,
	IPV6_OPTIONS = 60
};

/* Of headers that a BPF build cannot include. */
enum { ICMP_DEST_UNREACH = 3, ICMP_TIME_EXCEEDED = 11, ICMP_PARAMETERPROB = 12 };
enum { ICMPV6_DEST_UNREACH = 1, ICMPV6_PARAMPROB = 4 };

struct ipv6_header {
	__u8 version_and_class;
	__u8 class_and_flow;
	__be16 flow;
	__be16 payload_length;
	__u8 next_header;
	__u8 hop_limit;
	struct ip_addr source;
	struct ip_addr destination;
};

struct ipv6_extension {
	__u8 next;
	__u8 length; /* in units of 8 bytes beyond the first 8; of AH in units of 4 */
	__be16 fragment;
	__be32 id;
};

struct icmp_header {
	__u8 type;
	__u8 code;
	__be16 check;
	__be32 rest;
};

enum packet_kind {
	PACKET_OTHER, /* no concern of ours */
	PACKET_PLAIN,
	PACKET_ICMP_ERROR, /* the tuple is the reverse of the packet that the error is about */
	PACKET_MALFORMED,
	PACKET_LOST_FRAGMENT, /* came before the first of its datagram */
};

enum packet_fragment { FRAGMENT_NONE, FRAGMENT_FIRST, FRAGMENT_LATER };

enum tcp_flags { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };

struct packet {
	struct tuple tuple;
	__u16 l3; /* offsets */
	__u16 l4;
	__u16 inner_l3; /* of the packet inside an ICMP error */
	__u16 inner_l4;
	__u16 length;	    /* from l3 on, as on the wire: of one segment */
	__u8 fragment;	    /* enum packet_fragment */
	__u8 tcp_flags;	    /* enum tcp_flags */
	__u8 hops;	    /* time to live */
	__u8 ipv4;	    /* bool */
	__u8 may_fragment;  /* bool: IPv4 without DF */
	__u8 through_stack; /* bool: a fragment that follows one that went there */
	__be32 fragment_id;
};

static __always_inline bool packet_has_ports(__u8 protocol)
{
	return protocol == KPB_IPPROTO_TCP || protocol == KPB_IPPROTO_UDP ||
	       protocol == KPB_IPPROTO_SCTP;
}

static __always_inline struct fragment_key packet_fragment_key(const struct packet *p)
{
	return (struct fragment_key){
		.source = p->tuple.source,
		.destination = p->tuple.destination,
		.id = p->fragment_id,
		.protocol = p->tuple.protocol,
	};
}

static __always_inline enum packet_kind packet_recall_fragment(struct packet *p)
{
	struct fragment_key key = packet_fragment_key(p);
	const struct fragment *first = bpf_map_lookup_elem(&kpb_fragments, &key);

	if (!first)
		return PACKET_LOST_FRAGMENT;
	p->tuple.source_port = first->source_port;
	p->tuple.destination_port = first->destination_port;
	p->through_stack = first->through_stack;
	return PACKET_PLAIN;
}

/* Later fragments carry no ports: to be called for a first one whose datagram is translated. */
static __noinline void packet_remember_fragment(struct packet *p)
{
	struct fragment_key key = packet_fragment_key(p);
	struct fragment first = {
		.source_port = p->tuple.source_port,
		.destination_port = p->tuple.destination_port,
		.through_stack = p->through_stack,
	};

	bpf_map_update_elem(&kpb_fragments, &key, &first, BPF_ANY);
}

static __always_inline enum packet_kind packet_transport(context *ctx, struct packet *p)
{
	__u32 header = p->tuple.protocol == KPB_IPPROTO_TCP ? sizeof(struct tcphdr)
							    : sizeof(struct udphdr);
	const struct udphdr *ports;
	__u32 segment = ctx_segment(ctx);

	if (p->fragment == FRAGMENT_LATER)
		return packet_recall_fragment(p);
	ports = ctx_header(ctx, p->l4, header);
	if (!ports || (!segment && p->l4 + header > p->l3 + p->length))
		return PACKET_MALFORMED;
	p->tuple.source_port = ports->source;
	p->tuple.destination_port = ports->dest;
	if (p->tuple.protocol == KPB_IPPROTO_TCP) {
		const struct tcphdr *tcp = ctx_at(ctx, p->l4, sizeof(*tcp));

		if (!tcp)
			return PACKET_MALFORMED;
		p->tcp_flags = ((const __u8 *)tcp)[13];
		header = tcp->doff * 4;
	}
	if (segment)
		p->length = p->l4 - p->l3 + header + segment;
	return PACKET_PLAIN;
}

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

static __always_inline enum packet_kind packet_inner_ipv6(context *ctx, struct packet *p)
{
	const struct ipv6_header *ip = ctx_header(ctx, p->inner_l3, sizeof(*ip));
	const struct udphdr *ports;

	if (!ip || ip->version_and_class >> 4 != 6)
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

	if (!ip || ip->version_and_class >> 4 != 6)
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
