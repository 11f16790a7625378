/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The flow table: find, follow, make and remove. See kpb_packet_types.h for what an entry is.
 *
 * Time-outs need nobody: an entry past its deadline is as good as absent, and each new flow
 * judges the two that wait longest. When the table is full, what is no connection yet, or no
 * longer, gives way; established flows never do.
 */
#pragma once

#include "packet.h"
#include "verdict.h"

/* A flow of two pairs is made in steps, so that nobody follows the first without the second. */
enum track_step {
	TRACK_WHOLE,
	TRACK_RESERVE,	/* the partner, and with it the port */
	TRACK_UNLISTED, /* both, but no place in the queue */
};

struct track_pair {
	struct tuple key;
	struct tuple partner_key;
	struct flow flow;
	struct flow partner;
	__u32 step; /* enum track_step */
};

/* What is known of a new flow, step by step. */
struct request {
	struct service service;
	__u32 index;
	__u32 backend;
	__u32 ifindex;	/* by which it came */
	__u8 place;	/* enum client_place */
	__u8 pod_local; /* bool: as the local detector sees it */
	__u8 detector;	/* bool: there is one */
	__u8 frontend_kind;
	__u8 frontend_flags;
	__u8 backend_flags;
	__u8 masquerade; /* bool */
	__u8 hairpin;	 /* bool */
	__u8 dsr;	 /* bool */
	__u8 egress;	 /* bool: it came to the hook of packets that leave */
	__u16 pad0;
};

/*
 * What is too large for the stack: one for each processor, since no program of ours interrupts
 * another one. pair[0] has the packet's own key, pair[1] masquerades behind netfilter.
 */
struct scratch {
	struct packet packet;
	struct flow flow; /* that the packet follows */
	struct request request;
	struct track_pair pair[2];
	__u32 force;	  /* bool: take the place of flows that a full table can do without */
	__u16 first_port; /* of the range that a new flow gets its source port from */
	__u16 port_count;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} kpb_scratch SEC(".maps") __weak;

static __always_inline struct scratch *scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&kpb_scratch, &zero);
}

enum { TRACK_TRIES = 2, TRACK_TRIES_FULL = 32, TRACK_TRIES_VOID = 64 };
enum { TRACK_LOOK = 512 }; /* ticks, about a minute: then those who may live long are looked at */
enum { KPB_EEXIST = 17, KPB_E2BIG = 7, KPB_ENOMEM = 12, KPB_ENETUNREACH = 101 };

enum { TRACK_SILENT = 447, TRACK_YOUNG = 8 }; /* ticks: a minute, a second */

static __always_inline __u32 track_now(void)
{
	if (kernel_has(ktime_get_coarse_ns))
		return bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
	return bpf_ktime_get_ns() >> TICK_SHIFT;
}

static __always_inline __u32 track_timeout(__u8 state)
{
	return kpb_config.timeout[state & (CONFIG_TIMEOUTS - 1)];
}

static __always_inline __u32 track_check(const struct tuple *key, __u8 turn)
{
	__u32 ports = (__u32)key->source_port << 16 | key->destination_port;
	__u32 mixed = ports * 0x9e3779b1 + turn;

	mixed ^= key->source.word[3] * 0x85ebca77 ^ key->source.word[1];
	return mixed ^ key->destination.word[3] * 0xc2b2ae3d ^ key->destination.word[1];
}

static __always_inline bool track_is_past(const struct flow *flow, __u32 now)
{
	return (__s32)(now - flow->deadline) > 0;
}

/* The tuple of answers. */
static __always_inline struct tuple track_reverse(const struct tuple *key)
{
	return (struct tuple){
		.source = key->destination,
		.destination = key->source,
		.source_port = key->destination_port,
		.destination_port = key->source_port,
		.protocol = key->protocol,
	};
}

/* The key of the entry that undoes this one. */
static __always_inline struct tuple track_partner_key(const struct tuple *key,
						      const struct flow *flow)
{
	return (struct tuple){
		.source = flow->destination,
		.destination = flow->source,
		.source_port = flow->destination_port,
		.destination_port = flow->source_port,
		.protocol = key->protocol,
	};
}

static __always_inline bool track_has_partner(const struct flow *flow)
{
	return !(flow->flags & TRACK_ALONE);
}

/* A partner's key may have gone to another flow, or to a later life of this one. */
static __always_inline bool track_is_partner(const struct flow *partner, const struct tuple *key,
					     __u8 turn)
{
	return partner->turn == turn && addr_equal(&partner->destination, &key->source) &&
	       addr_equal(&partner->source, &key->destination) &&
	       partner->destination_port == key->source_port &&
	       partner->source_port == key->destination_port;
}

/*
 * Whoever makes its check void ends an entry, and nobody else: else two processors that find it
 * dead would both remove what stands there, and one of them what the other has put there by then.
 */
static __always_inline bool track_take(struct flow *flow, __u32 check)
{
	if (kernel_has(ima_file_hash)) /* of 5.18, when all of them had the instruction below */
		return __sync_val_compare_and_swap(&flow->check, check, ~check) == check;
	if (*(volatile __u32 *)&flow->check != check)
		return false;
	*(volatile __u32 *)&flow->check = ~check;
	return true;
}

/* Somebody is ending the entry at this moment. */
static __always_inline bool track_is_void(const struct tuple *key, const struct flow *flow)
{
	return *(volatile __u32 *)&flow->check == ~track_check(key, flow->turn);
}

/* Ends a flow, unless another one does; `turn` is that of the entry when it was judged. */
static __noinline int track_remove(const struct tuple *key, struct flow *flow, __u8 turn)
{
	struct tuple partner_key = track_partner_key(key, flow);
	struct flow *partner = NULL;

	if (track_has_partner(flow))
		partner = bpf_map_lookup_elem(&kpb_flows, &partner_key);
	if (!track_take(flow, track_check(key, turn)))
		return false;
	if (partner && track_is_partner(partner, key, turn) &&
	    track_take(partner, track_check(&partner_key, turn)))
		bpf_map_delete_elem(&kpb_flows, &partner_key);
	bpf_map_delete_elem(&kpb_flows, key);
	return true;
}

/* Whether an entry past its deadline lives on in its partner. */
static __noinline int track_partner_lives(const struct tuple *key, const struct flow *flow)
{
	struct tuple partner_key = track_partner_key(key, flow);
	const struct flow *partner = bpf_map_lookup_elem(&kpb_flows, &partner_key);

	return track_has_partner(flow) && partner && !track_is_past(partner, track_now());
}

static __always_inline bool track_is_dead(const struct tuple *key, const struct flow *flow)
{
	return track_is_past(flow, track_now()) && !track_partner_lives(key, flow);
}

/*
 * A copy of the live entry for a key, and the entry itself; NULL if there is none. What the
 * kernel gave to another key meanwhile counts as absent.
 */
static __always_inline struct flow *track_find(const struct tuple *key, struct flow *copy,
					       __u32 now)
{
	struct flow *flow = bpf_map_lookup_elem(&kpb_flows, key);

	if (!flow)
		return NULL;
	*copy = *flow;
	barrier();
	if (*(volatile __u32 *)&flow->check != track_check(key, copy->turn))
		return NULL;
	if (track_is_past(copy, now) && !track_partner_lives(key, copy)) {
		track_remove(key, flow, copy->turn);
		return NULL;
	}
	return flow;
}

/* ---- follow ---- */

/* Of a pair that masquerades behind netfilter. */
static __always_inline bool track_is_second(const struct flow *flow)
{
	__u32 place = flow->flags & (TRACK_EGRESS | TRACK_REPLY | TRACK_DIRECT);

	return place == TRACK_EGRESS || place == TRACK_REPLY;
}

/*
 * Of two pairs the second ends last: what comes after the end of the first opens both anew, and
 * nothing leaves with half of its work done.
 */
static __always_inline __u32 track_grace(const struct flow *flow)
{
	return track_is_second(flow) ? 2 : 0;
}

/*
 * Only what both sides have agreed to lives long. Where no answer is seen, since another node
 * gives it, a consistent choice finds the backend again: such a flow need not.
 */
static __always_inline __u8 track_next_alone(const struct flow *flow, __u8 tcp)
{
	if (tcp & TCP_FIN)
		return STATE_TCP_TIME_WAIT;
	return tcp & TCP_SYN || flow->state == STATE_TCP_TIME_WAIT ? flow->state : STATE_OTHER;
}

/*
 * How far a connection is closed that both sides have agreed to. The marks tell, not the order in
 * which they were made: FINs of both sides may meet two processors at once.
 */
static __always_inline __u8 track_how_open(const struct flow *flow, const struct flow *partner,
					   __u8 tcp)
{
	bool own = flow->flags & TRACK_FIN || tcp & TCP_FIN;
	bool other = partner && partner->flags & TRACK_FIN;

	if (own && other)
		return STATE_TCP_TIME_WAIT;
	return own || other ? STATE_TCP_CLOSING : STATE_TCP_ESTABLISHED;
}

static __always_inline __u8 track_next_tcp(const struct flow *flow, const struct flow *partner,
					   __u8 tcp)
{
	bool reply = flow->flags & TRACK_REPLY;

	if (tcp & TCP_RST)
		return STATE_TCP_CLOSED;
	if (!track_has_partner(flow))
		return track_next_alone(flow, tcp);
	switch (flow->state) {
	case STATE_TCP_NEW:
		return reply ? STATE_TCP_REPLIED : STATE_TCP_NEW;
	case STATE_TCP_REPLIED:
		if (reply || !(tcp & TCP_ACK))
			return STATE_TCP_REPLIED;
		return track_how_open(flow, partner, tcp);
	case STATE_TCP_CLOSED:
		/*
		 * Who goes on after his own reset never sent it. What the other side sends had
		 * been under way: if it did not believe the reset, its peer answers that.
		 */
		if (tcp & TCP_SYN || !(flow->flags & TRACK_ASSURED) || !(flow->flags & TRACK_RESET))
			return STATE_TCP_CLOSED;
		return track_how_open(flow, partner, tcp);
	case STATE_TCP_ESTABLISHED:
	case STATE_TCP_CLOSING:
		return track_how_open(flow, partner, tcp);
	default:
		return flow->state;
	}
}

/* What changes the state: few packets of a flow. Both partners learn of it. */
static __noinline void track_advance(const struct tuple *key, struct flow *flow, __u8 tcp)
{
	struct tuple partner_key = track_partner_key(key, flow);
	struct flow *partner = NULL;
	__u8 state = flow->state, held = state;
	bool assured;

	if (track_has_partner(flow))
		partner = bpf_map_lookup_elem(&kpb_flows, &partner_key);
	if (key->protocol == KPB_IPPROTO_TCP)
		state = held = track_next_tcp(flow, partner, tcp);
	else if (flow->flags & TRACK_REPLY) /* one answer is no conversation yet */
		state = STATE_UDP_REPLIED;
	/* UDP: the client goes on after an answer. */
	assured = (state >= STATE_TCP_ESTABLISHED && state <= STATE_TCP_TIME_WAIT) ||
		  (held == STATE_UDP_REPLIED && !(flow->flags & TRACK_REPLY));
	/* The backend's may come before the end of the handshake. */
	if (tcp & TCP_FIN && state >= STATE_TCP_REPLIED)
		flow->flags |= TRACK_FIN;
	if (tcp & TCP_RST)
		flow->flags |= TRACK_RESET;
	else if (state != STATE_TCP_CLOSED)
		flow->flags &= ~TRACK_RESET;
	if (assured)
		flow->flags |= TRACK_ASSURED;
	flow->state = state;
	flow->deadline = track_now() + track_timeout(held) + track_grace(flow);
	if (!partner)
		return;
	if (assured)
		partner->flags |= TRACK_ASSURED;
	partner->state = state;
	partner->deadline = flow->deadline; /* both of a pair have the same grace */
}

static __always_inline void track_seen(const struct packet *p, struct flow *flow,
				       const struct flow *copy, __u32 now)
{
	__u32 deadline = now + track_timeout(copy->state) + track_grace(copy);
	bool sure = copy->flags & (TRACK_REPLY | TRACK_ASSURED);
	bool settled = !(p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)) &&
		       ((copy->state == STATE_UDP_REPLIED && sure) || copy->state == STATE_OTHER ||
			copy->state == STATE_TCP_ESTABLISHED);

	if (!settled) {
		track_advance(&p->tuple, flow, p->tcp_flags);
		return;
	}
	if (copy->deadline != deadline)
		flow->deadline = deadline;
}
