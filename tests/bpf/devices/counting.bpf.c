/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Programs with the names of ours that only count what passes, by the device it passes. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

char t_license[] SEC("license") = "Dual BSD/GPL";

struct passed {
	__u32 ifindex;
	__u32 hook;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct passed);
	__type(value, __u64);
} t_passed SEC(".maps");

static __always_inline int count(__u32 ifindex, __u32 hook, int verdict)
{
	struct passed key = {ifindex, hook};
	__u64 one = 1, *seen = bpf_map_lookup_elem(&t_passed, &key);

	if (seen)
		*seen += 1;
	else
		bpf_map_update_elem(&t_passed, &key, &one, BPF_ANY);
	return verdict;
}

SEC("tc")
int kpb_tc_ingress(struct __sk_buff *skb)
{
	return count(skb->ifindex, 1, TC_ACT_UNSPEC);
}

SEC("tc")
int kpb_tc_egress(struct __sk_buff *skb)
{
	return count(skb->ifindex, 2, TC_ACT_UNSPEC);
}

SEC("tc")
int kpb_tc_ingress_l3(struct __sk_buff *skb)
{
	return count(skb->ifindex, 3, TC_ACT_UNSPEC);
}

SEC("tc")
int kpb_tc_egress_l3(struct __sk_buff *skb)
{
	return count(skb->ifindex, 4, TC_ACT_UNSPEC);
}

SEC("xdp.frags")
int kpb_xdp(struct xdp_md *ctx)
{
	return count(ctx->ingress_ifindex, 5, XDP_PASS);
}

SEC("xdp")
int kpb_xdp_linear(struct xdp_md *ctx)
{
	return count(ctx->ingress_ifindex, 6, XDP_PASS);
}
