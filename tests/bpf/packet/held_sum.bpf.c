/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Compares the sum of a packet that the kernel holds (CHECKSUM_COMPLETE) with the packet's bytes.
 * It stands where packets of ours come out of a wire.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

enum { ETHERNET = 14, MOST = 128 };

struct seen {
	__u32 packets;
	__u32 held;
	__u32 right;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct seen);
} f_seen SEC(".maps");

static __always_inline __u32 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff ? 0 : sum;
}

/* Neighbours and multicast groups are what the node itself speaks of. */
static __always_inline int is_of_the_test(__u8 protocol)
{
	return protocol == 6 || protocol == 17 || protocol == 44; /* TCP, UDP, fragments */
}

SEC("tc")
int f_compare(struct __sk_buff *skb)
{
	__u32 zero = 0, last = skb->len - ETHERNET - 1;
	struct seen *seen = bpf_map_lookup_elem(&f_seen, &zero);
	__u8 bytes[MOST] = {};
	__s64 held;

	if (!seen || last >= MOST)
		return TC_ACT_UNSPEC;
	asm volatile("%0 &= 127" : "+r"(last)); /* the verifier forgets what was compared */
	if (bpf_skb_load_bytes(skb, ETHERNET, bytes, last + 1))
		return TC_ACT_UNSPEC;
	if (!is_of_the_test(bytes[0] >> 4 == 4 ? bytes[9] : bytes[6]))
		return TC_ACT_UNSPEC;
	seen->packets++;
	held = bpf_csum_update(skb, 0);
	if (held < 0)
		return TC_ACT_UNSPEC;
	seen->held++;
	seen->right += folded(held) == folded(bpf_csum_diff(0, 0, (__be32 *)bytes, MOST, 0));
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "GPL";
