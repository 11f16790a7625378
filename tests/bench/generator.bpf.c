/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Both ends of the packet benchmark.
 *
 * drive_*    restores the frame, as another flow or the same, and calls the program under test:
 *            a test-run repeats one frame, which the program under test rewrites.
 * generate   the same for live frames, which go out of the device.
 * reflect    a backend: exchanges both ends and sends the frame back.
 * sink       counts what arrives as it should, and drops it.
 * wire       a node that does nothing but pass frames from one device to the other.
 */
#include "frames.bpf.h"

enum { NOT_CALLED = 99 };

enum order {
	ORDER_NEXT = 0,	  /* one flow after the other */
	ORDER_RANDOM = 1, /* any of `flows` */
};

struct plan {
	__u8 template[FRAME_BYTES]; /* address and port of the client 0, checksums without them */
	__be32 client;		    /* address of the first flows */
	__u32 flows;		    /* numbers are first .. first + flows */
	__u32 first;
	__u32 order;
	__be32 vip; /* what the sink expects as source */
	__be16 vip_port;
	__u16 reply; /* bool: the client is the receiver */
};

struct plan plan = {};
__u32 turn = 0;
__u32 seed = 1;
__u32 wire_ends[2] = {}; /* interface indexes */

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} under_test_tc SEC(".maps"), under_test_xdp SEC(".maps"), under_test_frags SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} arrived SEC(".maps"); /* as expected, otherwise */

static __always_inline __u32 next_flow(void)
{
	if (plan.order == ORDER_RANDOM) {
		seed = seed * 1664525 + 1013904223;
		return plan.first + (((__u64)seed * plan.flows) >> 32);
	}
	if (++turn >= plan.flows)
		turn = 0;
	return plan.first + turn;
}

static __always_inline void name_client(struct headers *headers, __be32 address, __be16 port)
{
	if (plan.reply) {
		headers->ip->daddr = address;
		headers->udp->dest = port;
	} else {
		headers->ip->saddr = address;
		headers->udp->source = port;
	}
}

static __always_inline bool write_frame(void *data, void *data_end)
{
	struct headers headers;
	__be32 client;
	__be16 port;
	__u32 flow;
	int i;

	if (data + FRAME_BYTES > data_end)
		return false;
	for (i = 0; i < FRAME_BYTES / 8; i++)
		((__u64 *)data)[i] = ((__u64 *)plan.template)[i];
	if (!headers_of(&headers, data, data_end))
		return false;
	flow = next_flow();
	client = bpf_htonl(bpf_ntohl(plan.client) + flow / PORTS);
	port = bpf_htons(FIRST_PORT + flow % PORTS);
	name_client(&headers, client, port);
	client = (client & 0xffff) + (client >> 16);
	headers.ip->check = ~fold(client + headers.ip->check);
	*headers.check = ~fold(client + port + *headers.check);
	return true;
}

SEC("tc")
int drive_tc(struct __sk_buff *ctx)
{
	ctx->tc_index = 0; /* of the packet before, in the same buffer */
	if (write_frame((void *)(long)ctx->data, (void *)(long)ctx->data_end))
		bpf_tail_call(ctx, &under_test_tc, 0);
	return NOT_CALLED;
}

SEC("xdp")
int drive_xdp(struct xdp_md *ctx)
{
	if (write_frame((void *)(long)ctx->data, (void *)(long)ctx->data_end))
		bpf_tail_call(ctx, &under_test_xdp, 0);
	return NOT_CALLED;
}

/* The kernel calls only programs that agree on frames of several buffers. */
SEC("xdp.frags")
int drive_frags(struct xdp_md *ctx)
{
	if (write_frame((void *)(long)ctx->data, (void *)(long)ctx->data_end))
		bpf_tail_call(ctx, &under_test_frags, 0);
	return NOT_CALLED;
}

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	if (!write_frame((void *)(long)ctx->data, (void *)(long)ctx->data_end))
		return XDP_ABORTED;
	return XDP_TX;
}

/* By redirection: XDP_TX of veth wakes its peer only if that has an XDP program. */
SEC("xdp")
int reflect(struct xdp_md *ctx)
{
	struct headers headers;
	__u8 mac[ETH_ALEN];
	__be32 address;
	__be16 port;

	if (!headers_of(&headers, (void *)(long)ctx->data, (void *)(long)ctx->data_end))
		return XDP_PASS;
	__builtin_memcpy(mac, headers.ethernet->h_dest, ETH_ALEN);
	__builtin_memcpy(headers.ethernet->h_dest, headers.ethernet->h_source, ETH_ALEN);
	__builtin_memcpy(headers.ethernet->h_source, mac, ETH_ALEN);
	address = headers.ip->daddr;
	headers.ip->daddr = headers.ip->saddr;
	headers.ip->saddr = address;
	port = headers.udp->dest;
	headers.udp->dest = headers.udp->source;
	headers.udp->source = port;
	return bpf_redirect(ctx->ingress_ifindex, 0);
}

SEC("xdp")
int sink(struct xdp_md *ctx)
{
	struct headers headers;
	__u32 kind = 0;
	__u64 *count;

	if (!headers_of(&headers, (void *)(long)ctx->data, (void *)(long)ctx->data_end))
		return XDP_PASS;
	if (plan.vip && (headers.ip->saddr != plan.vip || headers.udp->source != plan.vip_port))
		kind = 1;
	count = bpf_map_lookup_elem(&arrived, &kind);
	if (count)
		*count += 1;
	return XDP_DROP;
}

SEC("xdp")
int wire(struct xdp_md *ctx)
{
	__u32 to = ctx->ingress_ifindex == wire_ends[0] ? wire_ends[1] : wire_ends[0];

	return bpf_redirect(to, 0);
}

char bench_license[] SEC("license") = "Dual BSD/GPL";
