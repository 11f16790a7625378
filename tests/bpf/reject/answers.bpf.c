/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Answers every packet to one of the test's addresses, and translates every ICMP error, by the
 * library of the programs: nothing else of the packet path stands between test and library.
 */
#include "kpb.h"
#include "kpb_packet_maps.h"
#include "icmp.h"
#include "parse.h"
#include "reject.h"

char kpb_license[] SEC("license") = "Dual BSD/GPL";

/* What the test wants; one entry. */
struct t_order {
	struct ip_addr ipv4; /* the addresses that are dialled */
	struct ip_addr ipv6;
	struct flow flow; /* of ICMP errors; without a port: they are left alone */
	__u32 mtu;	  /* not 0: what is dialled is too big for it */
	__u32 left;	  /* of ICMP errors: those that could not be translated */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct t_order);
} t_orders SEC(".maps");

static __always_inline int answer(context *ctx, bool ethernet, bool to_host)
{
	struct packet p = {};
	enum packet_kind kind = packet_parse(ctx, &p, ethernet);
	struct t_order *order;
	__u32 key = 0;

	order = bpf_map_lookup_elem(&t_orders, &key);
	if (!order)
		return TC_ACT_UNSPEC;
	if (kind == PACKET_ICMP_ERROR && order->flow.destination_port) {
		if (icmp_rewrite(ctx, &p, &order->flow))
			__sync_fetch_and_add(&order->left, 1);
		return bpf_redirect(ctx->ifindex, 0);
	}
	if (kind != PACKET_PLAIN || !(addr_equal(&p.tuple.destination, &order->ipv4) ||
				      addr_equal(&p.tuple.destination, &order->ipv6)))
		return TC_ACT_UNSPEC;
	if (p.fragment == FRAGMENT_FIRST)
		packet_remember_fragment(&p);
	return order->mtu ? reject_too_big(ctx, &p, order->mtu, to_host) : reject(ctx, &p, to_host);
}

SEC("tc")
int t_ingress(struct __sk_buff *ctx)
{
	return answer(ctx, true, false);
}

SEC("tc")
int t_ingress_l3(struct __sk_buff *ctx)
{
	return answer(ctx, false, false);
}

SEC("tc")
int t_egress(struct __sk_buff *ctx)
{
	return answer(ctx, true, true);
}

SEC("tc")
int t_egress_l3(struct __sk_buff *ctx)
{
	return answer(ctx, false, true);
}
