/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Answers in place of a packet: it becomes a TCP reset or an ICMP error in the name of the address
 * that was dialled, and goes back by the device that it came from, or, with `to_host`, to a socket
 * of this host. For packets as the client sent them; all functions return what a program returns.
 *
 * Why a packet is answered, the caller counts; here only the answers that a limit holds back.
 */
#pragma once

#ifdef KPB_XDP
#error "answers change the length of packets: for TC only"
#endif

#include "csum.h"
#include "packet.h"
#include "reject_limit.h"
#include "route.h"

enum { REJECT_DROP = TC_ACT_SHOT };
enum { REJECT_HOPS = 64 };
enum { REJECT_SCTP_CHECK = 8 };	    /* offset in the header */
enum { REJECT_QUOTE = 64 };	    /* behind the IP header: QUIC looks for its connection ids */
enum { REJECT_HEADER_WORDS = 128 }; /* an IP header with all extensions: CTX_MAX_OFFSET */

/* ICMP and ICMPv6: type << 8 | code. */
enum reject_kind {
	REJECT_IPV4_PORT = 3 << 8 | 3,
	REJECT_IPV4_TOO_BIG = 3 << 8 | 4,
	REJECT_IPV6_PORT = 1 << 8 | 4,
	REJECT_IPV6_TOO_BIG = 2 << 8 | 0,
};

/* What checksums cover beside the message, of IPv4 as well: see csum.h. */
struct reject_pseudo {
	struct ip_addr source;
	struct ip_addr destination;
	__be32 length;
	__be32 protocol;
};

struct reject_segment {
	struct reject_pseudo pseudo;
	struct tcphdr tcp;
};

union reject_quote {
	struct tcphdr tcp;
	struct udphdr udp;
	__be32 word[REJECT_QUOTE / 4];
};

static __always_inline __u32 reject_check_offset(__u8 protocol)
{
	if (protocol == KPB_IPPROTO_TCP)
		return offsetof(struct tcphdr, check);
	if (protocol == KPB_IPPROTO_UDP)
		return offsetof(struct udphdr, check);
	return REJECT_SCTP_CHECK;
}

/*
 * Cut the packet at `end`. Tells whether the checksum at `check` is still to be completed by
 * whoever sends the packet (CHECKSUM_PARTIAL): such a one the kernel refuses to cut off, and
 * nothing else tells. Afterwards there are neither segments nor a sum of the whole packet left.
 * Negative on failure.
 */
static __noinline int reject_cut(context *ctx, __u32 check, __u32 end)
{
	int partial = bpf_skb_change_tail(ctx, check, 0) != 0;

	return bpf_skb_change_tail(ctx, end, 0) ? -1 : partial;
}

static __always_inline __u32 reject_ip_length(const struct packet *p)
{
	return p->ipv4 ? sizeof(struct iphdr) : sizeof(struct ipv6_header);
}

static __noinline int reject_store_ip(context *ctx, const struct packet *p, __u8 protocol,
				      __u16 length)
{
	struct ipv6_header six = {
		.version_and_class = 6 << 4,
		.payload_length = bpf_htons(length),
		.next_header = protocol,
		.hop_limit = REJECT_HOPS,
		.source = p->tuple.destination,
		.destination = p->tuple.source,
	};
	struct iphdr four = {
		.version = 4,
		.ihl = sizeof(four) / 4,
		.tot_len = bpf_htons(sizeof(four) + length),
		.frag_off = bpf_htons(0x4000),
		.ttl = REJECT_HOPS,
		.protocol = protocol,
		.saddr = p->tuple.destination.word[3],
		.daddr = p->tuple.source.word[3],
	};

	if (p->ipv4) {
		four.check = ~csum_of(&four, sizeof(four));
		return bpf_skb_store_bytes(ctx, p->l3, &four, sizeof(four), BPF_F_INVALIDATE_HASH);
	}
	return bpf_skb_store_bytes(ctx, p->l3, &six, sizeof(six), BPF_F_INVALIDATE_HASH);
}

static __always_inline struct reject_pseudo reject_pseudo(const struct packet *p, __u8 protocol,
							  __u32 length)
{
	return (struct reject_pseudo){
		.source = p->tuple.destination,
		.destination = p->tuple.source,
		.length = bpf_htonl(length),
		.protocol = bpf_htonl(protocol),
	};
}

/*
 * By the local route, so that no input routing judges a source that is none of the host's. It is
 * for frames: packets without Ethernet header get an empty one first.
 */
static __always_inline int reject_send_to_host(context *ctx, const struct packet *p)
{
	if (!p->l3 && bpf_skb_change_head(ctx, sizeof(struct ethhdr), 0))
		return REJECT_DROP;
	return bpf_redirect_neigh(LOOPBACK, NULL, 0, 0);
}

static __noinline int reject_send(context *ctx, const struct packet *p, bool to_host)
{
	__u8 mac[12];

	if (to_host)
		return reject_send_to_host(ctx, p);
	if (!p->l3)
		return bpf_redirect(ctx->ifindex, 0);
	if (bpf_skb_load_bytes(ctx, 0, mac, sizeof(mac)) ||
	    bpf_skb_store_bytes(ctx, 0, mac + 6, 6, 0) || bpf_skb_store_bytes(ctx, 6, mac, 6, 0))
		return REJECT_DROP;
	return bpf_redirect(ctx->ifindex, 0);
}

/* RFC 9293, 3.10.7.1: in sequence if the client tells what it is, else acknowledging it all. */
static __always_inline int reject_answer_segment(context *ctx, const struct packet *p,
						 struct tcphdr *answer)
{
	__u32 length = p->length - (p->l4 - p->l3), header;
	struct tcphdr tcp;

	if (bpf_skb_load_bytes(ctx, p->l4, &tcp, sizeof(tcp)))
		return -1;
	header = tcp.doff * 4;
	if (tcp.rst || p->fragment || header < sizeof(tcp) || header > length)
		return -1;
	answer->source = tcp.dest;
	answer->dest = tcp.source;
	answer->doff = sizeof(tcp) / 4;
	answer->rst = 1;
	if (tcp.ack) {
		answer->seq = tcp.ack_seq;
	} else {
		answer->ack = 1;
		answer->ack_seq =
			bpf_htonl(bpf_ntohl(tcp.seq) + length - header + tcp.syn + tcp.fin);
	}
	return 0;
}

static __noinline int reject_reset(context *ctx, struct packet *p, bool to_host)
{
	struct reject_segment segment = {
		.pseudo = reject_pseudo(p, KPB_IPPROTO_TCP, sizeof(segment.tcp)),
	};
	__u32 excess = p->l4 - p->l3 - reject_ip_length(p);
	__u32 check = p->l4 + offsetof(struct tcphdr, check);
	int partial;

	if (reject_answer_segment(ctx, p, &segment.tcp) || !reject_may_answer(ctx, p, to_host))
		return REJECT_DROP;
	partial = reject_cut(ctx, check, p->l4 + sizeof(segment.tcp));
	if (partial < 0)
		return REJECT_DROP;
	if (excess && bpf_skb_adjust_room(ctx, -(__s32)excess, BPF_ADJ_ROOM_MAC, 0))
		return REJECT_DROP;
	segment.tcp.check = partial ? csum_of(&segment.pseudo, sizeof(segment.pseudo))
				    : ~csum_of(&segment, sizeof(segment));
	if (reject_store_ip(ctx, p, KPB_IPPROTO_TCP, sizeof(segment.tcp)) ||
	    bpf_skb_store_bytes(ctx, p->l3 + reject_ip_length(p), &segment.tcp, sizeof(segment.tcp),
				0))
		return REJECT_DROP;
	return reject_send(ctx, p, to_host);
}

/*
 * A checksum that is still to be completed would change inside the quote, after the checksum of
 * the whole message was made. So it becomes the one value c that completing leaves as it is: with
 * the sum s of all else, -(s + c) = c, or c = -s / 2, and in these sums a half is a rotation.
 */
static __always_inline void reject_settle(union reject_quote *quote, __u8 protocol)
{
	__u16 *check = protocol == KPB_IPPROTO_TCP ? &quote->tcp.check : &quote->udp.check;
	__u16 rest;

	*check = 0;
	rest = ~csum_of(quote, sizeof(*quote));
	*check = rest >> 1 | rest << 15;
}

/* The sum of the IP header with its options or extensions; negative on failure. */
static __noinline int reject_sum_ip(context *ctx, const struct packet *p)
{
	__u32 offset = p->l3, sum = 0, word;

	for (int i = 0; i < REJECT_HEADER_WORDS && offset < p->l4; i++, offset += sizeof(word)) {
		if (bpf_skb_load_bytes(ctx, offset, &word, sizeof(word)))
			return -1;
		sum += csum_fold(word);
	}
	return csum_fold(sum);
}

/* Cut the packet to what is quoted of it, and add up the quote; negative on failure. */
static __noinline int reject_cut_quote(context *ctx, const struct packet *p, __u32 size)
{
	__u32 check = reject_check_offset(p->tuple.protocol);
	union reject_quote quote = {};
	int partial, sum;

	if (size <= check || size > sizeof(quote) || bpf_skb_load_bytes(ctx, p->l4, &quote, size))
		return -1;
	partial = reject_cut(ctx, p->l4 + check, p->l4 + size);
	if (partial < 0)
		return -1;
	/* The CRC of SCTP is left to veth and loopback alone, and they never complete it. */
	if (partial && p->tuple.protocol != KPB_IPPROTO_SCTP)
		reject_settle(&quote, p->tuple.protocol);
	if (bpf_skb_store_bytes(ctx, p->l4, &quote, size, 0))
		return -1;
	sum = reject_sum_ip(ctx, p);
	return sum < 0 ? -1 : sum + csum_of(&quote, sizeof(quote));
}

static __noinline int reject_icmp(context *ctx, struct packet *p, enum reject_kind kind, __u32 rest,
				  bool to_host)
{
	__u8 protocol = p->ipv4 ? KPB_IPPROTO_ICMP : KPB_IPPROTO_ICMPV6;
	struct icmp_header icmp = {
		.type = kind >> 8,
		.code = kind & 0xff,
		.rest = bpf_htonl(rest),
	};
	__u32 size = p->l3 + p->length - p->l4, length;
	struct reject_pseudo pseudo;
	int sum;

	if (!reject_may_answer(ctx, p, to_host))
		return REJECT_DROP;
	if (size > REJECT_QUOTE)
		size = REJECT_QUOTE;
	length = sizeof(icmp) + p->l4 - p->l3 + size;
	sum = reject_cut_quote(ctx, p, size);
	if (sum < 0 ||
	    bpf_skb_adjust_room(ctx, reject_ip_length(p) + sizeof(icmp), BPF_ADJ_ROOM_MAC, 0))
		return REJECT_DROP;
	pseudo = reject_pseudo(p, protocol, length);
	if (!p->ipv4)
		sum += csum_of(&pseudo, sizeof(pseudo));
	icmp.check = ~csum_fold(sum + csum_of(&icmp, sizeof(icmp)));
	if (reject_store_ip(ctx, p, protocol, length) ||
	    bpf_skb_store_bytes(ctx, p->l3 + reject_ip_length(p), &icmp, sizeof(icmp), 0))
		return REJECT_DROP;
	return reject_send(ctx, p, to_host);
}

static __always_inline int reject_port_unreachable(context *ctx, struct packet *p, bool to_host)
{
	return reject_icmp(ctx, p, p->ipv4 ? REJECT_IPV4_PORT : REJECT_IPV6_PORT, 0, to_host);
}

/* `mtu` is that of the way to the backend: what the client may send at most. */
static __always_inline int reject_too_big(context *ctx, struct packet *p, __u32 mtu, bool to_host)
{
	if (p->ipv4)
		return reject_icmp(ctx, p, REJECT_IPV4_TOO_BIG, mtu & 0xffff, to_host);
	return reject_icmp(ctx, p, REJECT_IPV6_TOO_BIG, mtu, to_host);
}

static __always_inline int reject(context *ctx, struct packet *p, bool to_host)
{
	if (p->tuple.protocol == KPB_IPPROTO_TCP)
		return reject_reset(ctx, p, to_host);
	return reject_port_unreachable(ctx, p, to_host);
}
