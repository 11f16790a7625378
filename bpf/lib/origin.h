/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a TCP socket dialled, for getpeername. A hash by socket cookie is the cheapest memory of
 * all (socket storage costs twice as much), at the price that every entry must be removed: when
 * the socket closes, and when it dials again.
 *
 * Sockets of the kernel (NFS, the subflows of MPTCP) close without telling us, so they get no
 * entry. An MPTCP socket remembers through its socket storage, as UDP sockets do.
 */
#pragma once

#include "sock_flow.h"

/* The flow is the only one that such a socket has: it can connect once. */
static __always_inline void origin_of_mptcp(struct mptcp_sock *msk, const struct sock_flow *flow)
{
	struct sock_state *state =
		bpf_sk_storage_get(&kpb_sock_state, msk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (state)
		state->flow[0] = *flow;
	else
		verdict_count(COUNT_ORIGIN_FULL);
}

static __always_inline void origin_remember(struct bpf_sock_addr *ctx, const struct sock_flow *flow)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(ctx->sk);
	struct origin origin = {.address = flow->vip, .port = flow->vip_port};
	__u64 cookie;

	if (!tcp)
		return;
	if (BPF_CORE_READ_BITFIELD(&tcp->inet_conn.icsk_inet.sk, sk_kern_sock)) {
		struct mptcp_sock *msk =
			kernel_has(skc_to_mptcp_sock) ? bpf_skc_to_mptcp_sock(ctx->sk) : NULL;

		if (msk)
			origin_of_mptcp(msk, flow);
		return;
	}
	cookie = bpf_get_socket_cookie(ctx);
	if (bpf_map_update_elem(&kpb_tcp_origin, &cookie, &origin, BPF_ANY))
		verdict_count(COUNT_ORIGIN_FULL);
}

/*
 * A socket that dials again after a failure must not show what it dialled before. A sequence
 * number tells that it dialled before; so a new socket, nearly every one, pays no lookup.
 */
static __always_inline void origin_forget(struct bpf_sock_addr *ctx)
{
	struct tcp_sock *tcp;
	__u64 cookie;

	if (!(kpb_config.flags & CONFIG_TCP_ORIGIN))
		return;
	tcp = bpf_skc_to_tcp_sock(ctx->sk);
	if (!tcp || !tcp->write_seq)
		return;
	cookie = bpf_get_socket_cookie(ctx);
	bpf_map_delete_elem(&kpb_tcp_origin, &cookie);
}
