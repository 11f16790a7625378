/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of the packet benchmark: one template from user space, a flow's address and port filled
 * in. A flow is a number; user space (frames.py) counts in the same way.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <linux/types.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum { FRAME_BYTES = 64, PORTS = 16384, FIRST_PORT = 20000 };
enum { PROTOCOL_TCP = 6, PROTOCOL_UDP = 17 };

struct headers {
	struct ethhdr *ethernet;
	struct iphdr *ip;
	struct udphdr *udp; /* ports stand at the same place in TCP */
	__sum16 *check;	    /* of TCP or UDP */
};

/* The headers of an IPv4 frame without options, TCP or UDP; false for anything else. */
static __always_inline bool headers_of(struct headers *headers, void *data, void *data_end)
{
	struct ethhdr *ethernet = data;
	struct iphdr *ip = data + sizeof(*ethernet);
	void *transport = data + sizeof(*ethernet) + sizeof(*ip);

	if (data + FRAME_BYTES > data_end || ethernet->h_proto != bpf_htons(ETH_P_IP) ||
	    ip->ihl != 5)
		return false;
	headers->ethernet = ethernet;
	headers->ip = ip;
	headers->udp = transport;
	if (ip->protocol == PROTOCOL_TCP)
		headers->check = &((struct tcphdr *)transport)->check;
	else if (ip->protocol == PROTOCOL_UDP)
		headers->check = &((struct udphdr *)transport)->check;
	else
		return false;
	return true;
}

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}
