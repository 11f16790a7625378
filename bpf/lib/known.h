/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who else may know a packet that belongs to no flow of ours: a socket of the host, netfilter. */
#pragma once

#include "packet.h"

enum { KPB_TCP_LISTEN = 10 };

/* The same in the kernel's words, and how long it is. */
static __always_inline __u32 known_tuple(const struct tuple *key, bool ipv4,
					 struct bpf_sock_tuple *tuple)
{
	if (ipv4) {
		tuple->ipv4.saddr = key->source.word[3];
		tuple->ipv4.daddr = key->destination.word[3];
		tuple->ipv4.sport = key->source_port;
		tuple->ipv4.dport = key->destination_port;
		return sizeof(tuple->ipv4);
	}
	__builtin_memcpy(tuple->ipv6.saddr, &key->source, sizeof(tuple->ipv6.saddr));
	__builtin_memcpy(tuple->ipv6.daddr, &key->destination, sizeof(tuple->ipv6.daddr));
	tuple->ipv6.sport = key->source_port;
	tuple->ipv6.dport = key->destination_port;
	return sizeof(tuple->ipv6);
}

/* For local addresses: a connected socket has it, whatever port of ours it uses [F19]. */
static __noinline int known_to_socket(context *ctx, const struct packet *p)
{
	bool tcp = p->tuple.protocol == KPB_IPPROTO_TCP;
	struct bpf_sock_tuple tuple = {};
	__u32 size = known_tuple(&p->tuple, p->ipv4, &tuple);
	struct bpf_sock *sk;
	int has;

	if (tcp)
		sk = bpf_skc_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	else
		sk = bpf_sk_lookup_udp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return false;
	has = tcp ? sk->state != KPB_TCP_LISTEN : sk->dst_port != 0;
	bpf_sk_release(sk);
	return has;
}

#ifdef KPB_XDP

/* The linker takes a kernel function in one object only, and TC needs it more. */
static __always_inline int known_to_netfilter(context *ctx, const struct tuple *key, bool ipv4)
{
	(void)ctx, (void)key, (void)ipv4;
	return false;
}

#else

struct bpf_ct_opts___kpb {
	__s32 netns_id;
	__s32 error;
	__u8 l4proto;
	__u8 dir;
	__u8 reserved[2];
};

/* The kernel's name, since it checks the type that its functions get. */
struct nf_conn {
	unsigned long status;
} __attribute__((preserve_access_index));

extern struct nf_conn *bpf_skb_ct_lookup(struct __sk_buff *ctx, struct bpf_sock_tuple *tuple,
					 __u32 tuple_size, struct bpf_ct_opts___kpb *opts,
					 __u32 opts_size) __weak __ksym;
extern void bpf_ct_release(struct nf_conn *connection) __weak __ksym;

/* A connection that netfilter follows, in either direction: kube-proxy's, or a CNI's. */
static __noinline int known_to_netfilter(context *ctx, const struct tuple *key, bool ipv4)
{
	struct bpf_ct_opts___kpb opts = {.netns_id = -1, .l4proto = key->protocol};
	struct bpf_sock_tuple tuple = {};
	struct nf_conn *connection;

	known_tuple(key, ipv4, &tuple);
	if (!bpf_skb_ct_lookup || !bpf_ct_release)
		return false;
	/* The verifier wants each length as a constant. */
	if (ipv4)
		connection =
			bpf_skb_ct_lookup(ctx, &tuple, sizeof(tuple.ipv4), &opts, sizeof(opts));
	else
		connection =
			bpf_skb_ct_lookup(ctx, &tuple, sizeof(tuple.ipv6), &opts, sizeof(opts));
	if (!connection)
		return false;
	bpf_ct_release(connection);
	return true;
}

#endif
