/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One map of every kind and one program of every hook that the binding's tests touch. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct key {
	__u32 number;
	__be16 port;
	__u16 pad0;
};

struct value {
	__u64 count;
	__u32 small;
	__u32 pad0;
};

struct config {
	__u64 increment;
	__u32 verdict;
	__u32 pad0;
};

const volatile struct config config = { .increment = 1, .verdict = XDP_PASS };

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, struct key);
	__type(value, struct value);
} t_hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1000);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct value);
} t_array SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1000);
	__type(key, struct key);
	__type(value, struct value);
} t_lru SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} t_percpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct value);
} t_storage SEC(".maps");

SEC("xdp")
int t_count(struct xdp_md *ctx)
{
	__u32 index = 3;
	struct value *value = bpf_map_lookup_elem(&t_array, &index);
	__u32 *counter = bpf_map_lookup_elem(&t_percpu, &index);

	if (value)
		__sync_fetch_and_add(&value->count, config.increment);
	if (counter)
		*counter += 1;
	return config.verdict;
}

SEC("?xdp")
int t_refused(struct xdp_md *ctx)
{
	return *(__u32 *)(long)ctx->data;
}

SEC("cgroup/connect4")
int t_allow(struct bpf_sock_addr *ctx)
{
	return 1;
}

SEC("cgroup/connect4")
int t_deny(struct bpf_sock_addr *ctx)
{
	return 0;
}

SEC("tc")
int t_pass(struct __sk_buff *skb)
{
	return -1; /* TCX_NEXT */
}

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
} __attribute__((preserve_access_index));

struct bpf_iter__udp {
	struct bpf_iter_meta *meta;
	struct udp_sock *udp_sk;
} __attribute__((preserve_access_index));

SEC("iter/udp")
int t_sockets(struct bpf_iter__udp *ctx)
{
	char mark = 'u';

	if (ctx->udp_sk)
		bpf_seq_write(ctx->meta->seq, &mark, 1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
