/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Aborts UDP sockets that are connected to a backend which serves their VIP no longer, so that
 * their programs notice and resolve anew. One read of the iterator visits all UDP sockets of one
 * network namespace; user space reads it once per namespace.
 *
 * As kube-proxy with its conntrack entries: a Service that was deleted, or that has no endpoint
 * now, leaves its sockets as they are. The object stands alone, since it may fail to load.
 */
#include "kpb.h"
#include "lb.h"
#include "verdict.h"

extern int bpf_sock_destroy(struct sock_common *sk) __ksym __weak;

char kpb_license[] SEC("license") = "Dual BSD/GPL";

enum { SOCK_CONNECTED_UDP = 1 /* TCP_ESTABLISHED */ };

/* The record that serves the flow's VIP and port now, whoever did when it began. */
static __always_inline const struct record *destroy_record(const struct sock_flow *flow)
{
	struct frontend_key key = {
		.address = lb_vip_address(&flow->vip),
		.port = flow->vip_port,
		.protocol = KPB_IPPROTO_UDP,
	};
	const struct vip *vip = bpf_map_lookup_elem(&kpb_vips, &key.address);
	const struct frontend *frontend = vip ? lb_frontend(vip->flags, &key) : NULL;

	return frontend ? lb_record(lb_service(frontend->service)) : NULL;
}

static __always_inline bool destroy_is_due(const struct sock_flow *flow)
{
	const struct record *record;
	const struct backend *backend;

	if (!(flow->flags & FLOW_CONNECTED) || !flow->backend)
		return false;
	record = destroy_record(flow);
	if (!record || !record->members)
		return false;
	backend = lb_backend(flow->backend);
	if (!backend || backend->generation != flow->backend_generation)
		return true;
	return !lb_is_member(record->slots, record->members, flow->backend);
}

/* Whether the socket still is connected as the flow says: disconnecting runs no hook. */
static __always_inline bool destroy_is_connected(const struct sock_common *sk,
						 const struct sock_flow *flow)
{
	struct ip_addr peer;

	if (sk->skc_state != SOCK_CONNECTED_UDP || sk->skc_dport != flow->backend_port)
		return false;
	if (addr_is_ipv4(&flow->backend_address))
		return sk->skc_daddr == flow->backend_address.word[3];
	peer = (struct ip_addr){
		{sk->skc_v6_daddr.in6_u.u6_addr32[0], sk->skc_v6_daddr.in6_u.u6_addr32[1],
		 sk->skc_v6_daddr.in6_u.u6_addr32[2], sk->skc_v6_daddr.in6_u.u6_addr32[3]}};
	return addr_equal(&peer, &flow->backend_address);
}

SEC("iter/udp")
int kpb_sock_abort(struct bpf_iter__udp *ctx)
{
	struct udp_sock *sk = ctx->udp_sk;
	struct sock_state *state;
	struct sock_common *common;

	if (!sk)
		return 0;
	state = bpf_sk_storage_get(&kpb_sock_state, sk, NULL, 0);
	if (!state)
		return 0;
	common = (struct sock_common *)sk;
#pragma unroll
	for (int i = 0; i < SOCK_FLOWS; i++) {
		struct sock_flow *flow = &state->flow[i];

		if (!destroy_is_due(flow) || !destroy_is_connected(common, flow))
			continue;
		if (bpf_sock_destroy(common))
			return 0;
		verdict_count(COUNT_SOCKET_ABORTED);
		bpf_seq_write(ctx->meta->seq, "\n", 1); /* the reader counts */
		return 0;
	}
	return 0;
}
