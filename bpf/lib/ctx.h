/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What TC and XDP have in common, under common names: bytes of the packet, and where it came from.
 * All code of the packet path speaks to the context through this file and rewrite_*.h; which of
 * the two it is compiled for, KPB_XDP says.
 *
 * Pointers into a packet are good until the next call that may change it.
 */
#pragma once

#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include "kpb.h"
#include "kpb_packet_maps.h"

/*
 * Global functions are verified once, whatever their callers know, so they keep the load short.
 * Both layers end up in one object: what differs between them needs two names.
 */
#ifdef KPB_XDP
typedef struct xdp_md context;
#define BY_LAYER(name) name##_xdp
#else
typedef struct __sk_buff context;
#define BY_LAYER(name) name##_tc
#endif

enum { LOOPBACK = 1 };	       /* lo has this index in every network namespace */
enum { CTX_MAX_OFFSET = 511 }; /* a header that begins later than this is not looked for */

/*
 * The two pointers, loaded afresh. In C the compiler keeps them as 32-bit numbers, as the context
 * declares them, and the verifier loses sight of the packet.
 */
#define ctx_pointer(ctx, field)                                                                    \
	({                                                                                         \
		void *pointer;                                                                     \
		asm volatile("%0 = *(u32 *)(%1 + %2)"                                              \
			     : "=r"(pointer)                                                       \
			     : "r"(ctx), "i"(offsetof(context, field)));                           \
		pointer;                                                                           \
	})

static __always_inline void *ctx_at(context *ctx, __u32 offset, __u32 length)
{
	void *end = ctx_pointer(ctx, data_end);
	void *at = ctx_pointer(ctx, data);

	/* What is compared must be what is added, and not the same number read twice. */
	barrier_var(offset);
	if (offset > CTX_MAX_OFFSET)
		return NULL;
	at += offset;
	return at + length > end ? NULL : at;
}

static __always_inline bool ctx_goes_to(context *ctx, const __u8 *mac)
{
	const struct ethhdr *eth = ctx_at(ctx, 0, sizeof(*eth));
	__u8 difference = 0;

	if (!eth)
		return false;
	for (int i = 0; i < ETH_ALEN; i++)
		difference |= eth->h_dest[i] ^ mac[i];
	return !difference;
}

#ifdef KPB_XDP

/* The first buffer of a frame holds its headers. */
static __always_inline void *ctx_header(context *ctx, __u32 offset, __u32 length)
{
	return ctx_at(ctx, offset, length);
}

static __always_inline __u32 ctx_length(context *ctx)
{
	if (kernel_has(xdp_get_buff_len))
		return bpf_xdp_get_buff_len(ctx);
	return ctx->data_end - ctx->data;
}

static __always_inline __u32 ctx_packets(context *ctx)
{
	(void)ctx;
	return 1;
}

static __always_inline __u32 ctx_ifindex(context *ctx)
{
	return ctx->ingress_ifindex;
}

static __always_inline bool ctx_is_finished(context *ctx)
{
	(void)ctx;
	return false;
}

static __always_inline void ctx_begin(context *ctx)
{
	(void)ctx;
}

static __always_inline bool ctx_is_tagged(context *ctx)
{
	(void)ctx;
	return false;
}

static __always_inline bool ctx_is_for_another(context *ctx)
{
	(void)ctx;
	return false;
}

/* Payload of a segment of a packet that stands for several; 0 if it is one packet. */
static __always_inline __u32 ctx_segment(context *ctx)
{
	(void)ctx;
	return 0;
}

#else

/* Bytes of a header, made linear if they are not. */
static __always_inline void *ctx_header(context *ctx, __u32 offset, __u32 length)
{
	void *at = ctx_at(ctx, offset, length);

	if (at || offset > CTX_MAX_OFFSET || offset + length > ctx->len)
		return at;
	if (bpf_skb_pull_data(ctx, offset + length))
		return NULL;
	return ctx_at(ctx, offset, length);
}

static __always_inline __u32 ctx_length(context *ctx)
{
	return ctx->len;
}

/* Segments that travel as one. */
static __always_inline __u32 ctx_packets(context *ctx)
{
	return ctx->gso_segs ? ctx->gso_segs : 1;
}

static __always_inline __u32 ctx_ifindex(context *ctx)
{
	return ctx->ifindex;
}

static __always_inline bool ctx_is_tagged(context *ctx)
{
	return ctx->vlan_present;
}

/* A frame to another host's MAC, by the device's own judgement. */
static __always_inline bool ctx_is_for_another(context *ctx)
{
	return ctx->pkt_type == 3;
}

static __always_inline __u32 ctx_segment(context *ctx)
{
	return ctx->gso_size;
}

enum { CTX_FINISHED = 0x6b70 };

/*
 * Redirected packets meet our own egress next, and while a program takes another's place two of
 * ours stand at one hook: what is done shall not be looked at again.
 */
static __always_inline void ctx_finish(context *ctx)
{
	ctx->tc_index = CTX_FINISHED;
}

static __always_inline bool ctx_is_finished(context *ctx)
{
	return ctx->tc_index == CTX_FINISHED;
}

/* A mark that came along from another node of this kernel means nothing. */
static __always_inline void ctx_begin(context *ctx)
{
	ctx->tc_index = 0;
}

#endif
