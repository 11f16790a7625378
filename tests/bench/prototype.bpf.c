/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the packet path is measured against, with entries of the same sizes: the least that a
 * translation can cost, two hash inserts, and a program that does one lookup and nothing else.
 *
 * The translation parses, asks one table, and writes addresses, ports, time to live, MACs and
 * checksums. It knows no VIPs, states, time-outs, routes, fragments, options or IPv6.
 */
#include <linux/pkt_cls.h>
#include "frames.bpf.h"
#include "kpb_packet_types.h"

enum { BACKEND_PORT = 8080 };
enum {
	TRANSPORT_AT = sizeof(struct ethhdr) + sizeof(struct iphdr),
	TCP_CHECK_AT = TRANSPORT_AT + offsetof(struct tcphdr, check),
	UDP_CHECK_AT = TRANSPORT_AT + offsetof(struct udphdr, check),
};

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

static __always_inline const struct flow *find(const struct headers *headers)
{
	struct tuple tuple = tuple_of(headers);

	return bpf_map_lookup_elem(&prototype_flows, &tuple);
}

static __always_inline __u32 addresses_difference(const struct headers *headers,
						  const struct flow *flow)
{
	__u32 sum = replaced(0, headers->ip->saddr, flow->source.word[3]);

	return replaced(sum, headers->ip->daddr, flow->destination.word[3]);
}

static __always_inline __u32 ports_difference(const struct headers *headers,
					      const struct flow *flow)
{
	return (__u16)~headers->udp->source + flow->source_port + (__u16)~headers->udp->dest +
	       flow->destination_port;
}

/* All but the checksum of TCP and UDP. */
static __always_inline void rewrite(struct headers *headers, const struct flow *flow,
				    __u32 difference)
{
	static const __u8 mac[ETH_ALEN] = {2, 0, 0, 0, 0, 3},
			  own_mac[ETH_ALEN] = {2, 0, 0, 0, 0, 2};

	__builtin_memcpy(headers->ethernet->h_dest, mac, ETH_ALEN);
	__builtin_memcpy(headers->ethernet->h_source, own_mac, ETH_ALEN);
	headers->ip->ttl--;
	difference += (__u16)~bpf_htons(0x100);
	headers->ip->check = ~fold(difference + (__u16)~headers->ip->check);
	headers->ip->saddr = flow->source.word[3];
	headers->ip->daddr = flow->destination.word[3];
	headers->udp->source = flow->source_port;
	headers->udp->dest = flow->destination_port;
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

/* Only the kernel knows whether hardware is to finish the checksum or has summed the packet up. */
SEC("tc")
int translate_tc(struct __sk_buff *ctx)
{
	__u32 difference, ports, at;
	const struct flow *flow;
	struct headers headers;

	if (!headers_of(&headers, (void *)(long)ctx->data, (void *)(long)ctx->data_end))
		return TC_ACT_SHOT;
	flow = find(&headers);
	if (!flow)
		return TC_ACT_SHOT;
	difference = addresses_difference(&headers, flow);
	ports = ports_difference(&headers, flow);
	at = headers.ip->protocol == PROTOCOL_TCP ? TCP_CHECK_AT : UDP_CHECK_AT;
	if (bpf_l4_csum_replace(ctx, at, 0, difference, BPF_F_PSEUDO_HDR) ||
	    bpf_l4_csum_replace(ctx, at, 0, ports, 0))
		return TC_ACT_SHOT;
	if (!headers_of(&headers, (void *)(long)ctx->data, (void *)(long)ctx->data_end))
		return TC_ACT_SHOT;
	rewrite(&headers, flow, difference);
	return TC_ACT_OK;
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
	const struct flow *flow;
	struct headers headers;
	__u32 difference;

	if (!headers_of(&headers, (void *)(long)ctx->data, (void *)(long)ctx->data_end))
		return XDP_DROP;
	flow = find(&headers);
	if (!flow)
		return XDP_DROP;
	difference = addresses_difference(&headers, flow);
	*headers.check =
		~fold(difference + ports_difference(&headers, flow) + (__u16) ~*headers.check);
	rewrite(&headers, flow, difference);
	return XDP_PASS;
}

SEC("xdp")
int insert_xdp(struct xdp_md *ctx)
{
	bool done = insert((void *)(long)ctx->data, (void *)(long)ctx->data_end);

	return done ? XDP_PASS : XDP_DROP;
}

char bench_license[] SEC("license") = "Dual BSD/GPL";
