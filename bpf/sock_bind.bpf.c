/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * bind(): a node port in use cannot be had by a program of the host, whose listener would never
 * hear a client. Only in the host's namespace, only node ports, only where they are served.
 */
#include "lb.h"
#include "verdict.h"

extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym __weak;

/* Whether a node port is served on the address that a socket is bound to. */
static __always_inline bool bind_takes_node_port(const struct ip_addr *address, __be16 port,
						 __u8 protocol)
{
	struct frontend_key key = {.address = *address, .port = port, .protocol = protocol};
	const struct frontend *frontend = lb_wildcard(&key);
	const struct vip *vip;
	struct ip_addr at;

	if (!frontend || frontend->kind != FRONTEND_NODE_PORT)
		return false;
	if (addr_is_wildcard(address))
		return true;
	at = lb_vip_address(address);
	vip = bpf_map_lookup_elem(&kpb_vips, &at);
	return vip && vip->flags & VIP_NODE_PORT;
}

/* Kernels that cannot tell let a socket for IPv6 alone count as one for both families. */
static __always_inline bool bind_is_ipv6_only(struct bpf_sock *sk)
{
	struct sock *kernel_sk;

	if (!bpf_cast_to_kern_ctx)
		return false;
	kernel_sk = bpf_cast_to_kern_ctx(sk);
	return BPF_CORE_READ_BITFIELD(&kernel_sk->__sk_common, skc_ipv6only);
}

static __always_inline bool bind_is_of_host(struct bpf_sock *sk)
{
	return bpf_get_netns_cookie(sk) == kpb_config.host_netns;
}

SEC("cgroup/post_bind4")
int kpb_post_bind4(struct bpf_sock *sk)
{
	struct ip_addr address = addr_from_ipv4(sk->src_ip4);
	__be16 port = bpf_htons(sk->src_port);

	if (!bind_is_of_host(sk) || !bind_takes_node_port(&address, port, sk->protocol))
		return 1;
	return verdict(COUNT_BIND_REFUSED);
}

SEC("cgroup/post_bind6")
int kpb_post_bind6(struct bpf_sock *sk)
{
	struct ip_addr address = {{sk->src_ip6[0], sk->src_ip6[1], sk->src_ip6[2], sk->src_ip6[3]}};
	struct ip_addr ipv4 = addr_wildcard(true);
	__be16 port = bpf_htons(sk->src_port);
	__u8 protocol = sk->protocol;

	if (!bind_is_of_host(sk))
		return 1;
	if (bind_takes_node_port(&address, port, protocol))
		return verdict(COUNT_BIND_REFUSED);
	if (address.word[0] || address.word[1] || address.word[2] || address.word[3])
		return 1;
	if (!bind_takes_node_port(&ipv4, port, protocol) || bind_is_ipv6_only(sk))
		return 1;
	return verdict(COUNT_BIND_REFUSED);
}
