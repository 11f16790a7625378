/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is known of a packet: its tuple, where its headers are, its fragments; and how the layer of
 * ports is read. parse.h goes there through the layers below.
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
