/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A socket closes: what it left in shared maps goes with it. Its storage goes by itself. */
#include "sock_flow.h"

SEC("cgroup/sock_release")
int kpb_release(struct bpf_sock *sk)
{
	struct sock_state *state;
	__u64 cookie;

	if (sk->protocol == KPB_IPPROTO_TCP) {
		/* Also with CONFIG_TCP_ORIGIN off: an earlier run may have remembered it. */
		cookie = bpf_get_socket_cookie(sk);
		bpf_map_delete_elem(&kpb_tcp_origin, &cookie);
		return 1;
	}
	state = flow_state(sk);
	if (state)
		flow_remove_spilled(state, bpf_get_socket_cookie(sk));
	return 1;
}
