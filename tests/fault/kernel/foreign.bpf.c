/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Programs of somebody else: they count what passes, and leave it alone. */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

char f_license[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} f_seen SEC(".maps");

static __always_inline int seen(__u32 where, int verdict)
{
	__u64 *count = bpf_map_lookup_elem(&f_seen, &where);

	if (count)
		__sync_fetch_and_add(count, 1);
	return verdict;
}

SEC("tc")
int f_first(struct __sk_buff *skb)
{
	return seen(0, TC_ACT_UNSPEC);
}

SEC("tc")
int f_last(struct __sk_buff *skb)
{
	return seen(1, TC_ACT_UNSPEC);
}

SEC("xdp")
int f_xdp(struct xdp_md *ctx)
{
	return seen(2, XDP_PASS);
}

SEC("cgroup/connect4")
int f_connect(struct bpf_sock_addr *ctx)
{
	return seen(3, 1);
}
