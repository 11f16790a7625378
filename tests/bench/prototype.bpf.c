/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the packet path is measured against, with entries of the same sizes: the least that a
 * translation can cost, two hash inserts, and a program that does one lookup and nothing else.
 */
#include <linux/pkt_cls.h>
#include "frames.bpf.h"
#include "kpb_packet_types.h"

enum { BACKEND_PORT = 8080 };

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct tuple);
	__type(value, struct flow);
} prototype_flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct ip_addr);
	__type(value, struct vip);
} prototype_vips SEC(".maps");

static __always_inline struct ip_addr mapped(__be32 address)
{
	return (struct ip_addr){{0, 0, bpf_htonl(0xffff), address}};
}

static __always_inline struct tuple tuple_of(const struct headers *headers)
{
	return (struct tuple){
		.source = mapped(headers->ip->saddr),
		.destination = mapped(headers->ip->daddr),
		.source_port = headers->udp->source,
		.destination_port = headers->udp->dest,
		.protocol = headers->ip->protocol,
	};
}

/* The sum of a 16-bit checksum field after `from` became `to` (RFC 1624). */
static __always_inline __u32 replaced(__u32 sum, __be32 from, __be32 to)
{
	return sum + (~from & 0xffff) + (~from >> 16) + (to & 0xffff) + (to >> 16);
}

/* Parse, one lookup, rewrite, checksums. */
static __always_inline bool translate(void *data, void *data_end)
{
	struct headers headers;
	__be32 source, destination;
	const struct flow *flow;
	struct tuple tuple;
	__u32 addresses;

	if (!headers_of(&headers, data, data_end))
		return false;
	tuple = tuple_of(&headers);
	flow = bpf_map_lookup_elem(&prototype_flows, &tuple);
	if (!flow)
		return false;
	source = flow->source.word[3];
	destination = flow->destination.word[3];
	addresses = replaced(0, headers.ip->saddr, source);
	addresses = replaced(addresses, headers.ip->daddr, destination);
	headers.ip->check = ~fold(addresses + (__u16)~headers.ip->check);
	*headers.check = ~fold(addresses + (__u16)~*headers.check + (__u16)~headers.udp->source + flow->source_port +
		       (__u16)~headers.udp->dest + flow->destination_port);
	headers.ip->saddr = source;
	headers.ip->daddr = destination;
	headers.udp->source = flow->source_port;
	headers.udp->dest = flow->destination_port;
	return true;
}

/* Both directions of a flow: from the client to 198.51.100.2, as the node's 198.51.100.1. */
static __always_inline bool insert(void *data, void *data_end)
{
	struct headers headers;
	struct flow forward = {}, reply = {};
	struct tuple tuple, back;

	if (!headers_of(&headers, data, data_end))
		return false;
	tuple = tuple_of(&headers);
	forward.source = mapped(bpf_htonl(0xc6336401));
	forward.destination = mapped(bpf_htonl(0xc6336402));
	forward.source_port = tuple.source_port;
	forward.destination_port = bpf_htons(BACKEND_PORT);
	reply.source = tuple.destination;
	reply.destination = tuple.source;
	reply.source_port = tuple.destination_port;
	reply.destination_port = tuple.source_port;
	back = (struct tuple){
		.source = forward.destination,
		/* Clients may share a port: what stands for the address makes the key unique. */
		.destination = mapped(tuple.source.word[3]),
		.source_port = forward.destination_port,
		.destination_port = forward.source_port,
		.protocol = tuple.protocol,
	};
	return !bpf_map_update_elem(&prototype_flows, &tuple, &forward, BPF_NOEXIST) &&
	       !bpf_map_update_elem(&prototype_flows, &back, &reply, BPF_NOEXIST);
}

static __always_inline bool look(void)
{
	struct ip_addr address = mapped(bpf_htonl(0xc6336402));

	return bpf_map_lookup_elem(&prototype_vips, &address);
}

SEC("tc")
int empty_tc(struct __sk_buff *ctx)
{
	(void)ctx;
	return TC_ACT_OK;
}

SEC("tc")
int lookup_tc(struct __sk_buff *ctx)
{
	(void)ctx;
	return look() ? TC_ACT_SHOT : TC_ACT_OK;
}

SEC("tc")
int translate_tc(struct __sk_buff *ctx)
{
	bool done = translate((void *)(long)ctx->data, (void *)(long)ctx->data_end);

	return done ? TC_ACT_OK : TC_ACT_SHOT;
}

SEC("tc")
int insert_tc(struct __sk_buff *ctx)
{
	bool done = insert((void *)(long)ctx->data, (void *)(long)ctx->data_end);

	return done ? TC_ACT_OK : TC_ACT_SHOT;
}

SEC("xdp")
int empty_xdp(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

SEC("xdp")
int lookup_xdp(struct xdp_md *ctx)
{
	(void)ctx;
	return look() ? XDP_DROP : XDP_PASS;
}

SEC("xdp")
int translate_xdp(struct xdp_md *ctx)
{
	bool done = translate((void *)(long)ctx->data, (void *)(long)ctx->data_end);

	return done ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int insert_xdp(struct xdp_md *ctx)
{
	bool done = insert((void *)(long)ctx->data, (void *)(long)ctx->data_end);

	return done ? XDP_PASS : XDP_DROP;
}

char bench_license[] SEC("license") = "Dual BSD/GPL";
