/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What may be true of a packet that leaves and belongs to no flow: nobody has its address, it was
 * served before, or it came to look like a packet of somebody else's flow.
 */
#pragma once

#include "nat.h"
#include "out.h"

#ifndef KPB_XDP

/*
 * An address of a ServiceCIDR that no Service has [H2]: asked where packets leave, since another
 * proxy may serve it by netfilter.
 */
static __noinline int leave_is_unused(const struct ip_addr *a)
{
	__u32 zero = 0;
	const struct node *node = bpf_map_lookup_elem(&kpb_node, &zero);

	if (!node)
		return false;
	for (__u32 i = 0; i < NODE_SERVICE_CIDRS && i < node->service_cidrs; i++)
		if (serve_in_prefix(a, &node->service_cidr[i]))
			return true;
	return false;
}

/* The entry that waits for answers to this very packet. */
static __always_inline const struct flow *leave_answer(const struct packet *p)
{
	struct tuple key = track_reverse(&p->tuple);

	return bpf_map_lookup_elem(&kpb_flows, &key);
}

/* On its way to a backend whose address is a VIP as well: it has been served. */
static __noinline int leave_is_middle(const struct packet *p)
{
	const __u32 answer = TRACK_EGRESS | TRACK_REPLY;
	const struct flow *flow = leave_answer(p);

	return flow && (flow->flags & answer) == answer;
}

static __always_inline bool leave_is_ours_to_give(__be16 port)
{
	__u32 place = bpf_ntohs(port) - kpb_config.snat_first;

	return place < kpb_config.snat_count;
}

/*
 * No socket uses these ports, but netfilter may, masquerading for a pod. If a flow of ours waits
 * for answers at the same port of the same peer, the two must be told apart: another port.
 */
static __noinline int leave_disentangle(context *ctx, struct scratch *work)
{
	struct packet *p = &work->packet;
	struct backend peer = {.address = p->tuple.destination, .port = p->tuple.destination_port};
	const __u32 kinds = TRACK_REPLY | TRACK_EGRESS | TRACK_PASS;
	const struct flow *ours = leave_answer(p);

	if (!ours || (ours->flags & kinds) != TRACK_REPLY || !serve_opens(p))
		return OUT_LEAVE;
	__builtin_memset(&work->request, 0, sizeof(work->request));
	work->request.egress = true;
	nat_describe(p, &work->request, &peer, &work->pair[0]);
	if (nat_make_apart(ctx, p, work, 0) < 0)
		return OUT_DROP;
	return BY_LAYER(out)(ctx, true);
}

#endif
