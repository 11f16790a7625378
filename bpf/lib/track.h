/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The flow table: find, follow, make and remove. See kpb_packet_types.h for what an entry is.
 *
 * Time-outs need nobody: an entry past its deadline is as good as absent, and each new flow
 * removes the oldest dead one of its processor. Only what nobody answered gives way when the
 * table is full; established flows never do.
 */
#pragma once

#include "packet.h"
#include "verdict.h"

struct track_pair {
	struct tuple key;
	struct tuple partner_key;
	struct flow flow;
	struct flow partner;
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

enum { TRACK_RING_TRIES = 4, TRACK_ROOM_TRIES = 16 };
enum { KPB_EEXIST = 17, KPB_E2BIG = 7 };

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

static __always_inline __u32 track_check(const struct tuple *key)
{
	__u32 ports = (__u32)key->source_port << 16 | key->destination_port;
	__u32 mixed = ports * 0x9e3779b1;

	mixed ^= key->source.word[3] * 0x85ebca77 ^ key->source.word[1];
	return mixed ^ key->destination.word[3] * 0xc2b2ae3d ^ key->destination.word[1];
}

static __always_inline bool track_is_past(const struct flow *flow, __u32 now)
{
	return (__s32)(now - flow->deadline) > 0;
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

static __always_inline void track_remove(const struct tuple *key, const struct flow *flow)
{
	struct tuple partner = track_partner_key(key, flow);

	if (track_has_partner(flow))
		bpf_map_delete_elem(&kpb_flows, &partner);
	bpf_map_delete_elem(&kpb_flows, key);
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
	if (*(volatile __u32 *)&flow->check != track_check(key))
		return NULL;
	if (track_is_past(copy, now) && !track_partner_lives(key, copy)) {
		track_remove(key, copy);
		return NULL;
	}
	return flow;
}

/* ---- follow ---- */

static __always_inline __u8 track_next_tcp(const struct flow *flow, const struct flow *partner,
					   __u8 tcp)
{
	bool reply = flow->flags & TRACK_REPLY;

	if (tcp & TCP_RST)
		return STATE_TCP_CLOSED;
	if (tcp & TCP_FIN)
		return partner && partner->flags & TRACK_FIN ? STATE_TCP_TIME_WAIT
							     : STATE_TCP_CLOSING;
	switch (flow->state) {
	case STATE_TCP_NEW:
		if (reply)
			return STATE_TCP_REPLIED;
		return !track_has_partner(flow) && !(tcp & TCP_SYN) ? STATE_TCP_ESTABLISHED
								    : STATE_TCP_NEW;
	case STATE_TCP_REPLIED:
		return !reply && tcp & TCP_ACK ? STATE_TCP_ESTABLISHED : STATE_TCP_REPLIED;
	case STATE_TCP_CLOSED: /* the reset was not believed: nobody else decides that */
		return tcp & TCP_SYN ? STATE_TCP_CLOSED : STATE_TCP_ESTABLISHED;
	default:
		return flow->state;
	}
}

/* What changes the state: few packets of a flow. Both partners learn of it. */
static __noinline void track_advance(const struct tuple *key, struct flow *flow, __u8 tcp)
{
	struct tuple partner_key = track_partner_key(key, flow);
	struct flow *partner = NULL;
	__u8 state = flow->state;

	if (track_has_partner(flow))
		partner = bpf_map_lookup_elem(&kpb_flows, &partner_key);
	if (key->protocol == KPB_IPPROTO_TCP)
		state = track_next_tcp(flow, partner, tcp);
	else if (flow->flags & TRACK_REPLY)
		state = STATE_UDP_REPLIED;
	if (tcp & TCP_FIN)
		flow->flags |= TRACK_FIN;
	flow->state = state;
	flow->deadline = track_now() + track_timeout(state);
	if (!partner)
		return;
	partner->state = state;
	partner->deadline = flow->deadline;
}

/* Whether a SYN opens a new connection on a flow that is over. */
static __always_inline bool track_is_reopened(const struct flow *flow, __u8 tcp)
{
	return (tcp & (TCP_SYN | TCP_ACK)) == TCP_SYN && !(flow->flags & TRACK_REPLY) &&
	       flow->state >= STATE_TCP_CLOSING && flow->state <= STATE_TCP_CLOSED;
}

static __always_inline void track_seen(const struct packet *p, struct flow *flow,
				       const struct flow *copy, __u32 now)
{
	__u32 deadline = now + track_timeout(copy->state);
	bool settled = copy->state == STATE_UDP_REPLIED || copy->state == STATE_OTHER ||
		       (copy->state == STATE_TCP_ESTABLISHED &&
			!(p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST)));

	if (!settled) {
		track_advance(&p->tuple, flow, p->tcp_flags);
		return;
	}
	if (copy->deadline != deadline)
		flow->deadline = deadline;
}

/* ---- make ---- */

/* What makes room: the dead, and in need the unanswered. */
static __always_inline bool track_gives_way(const struct tuple *key, const struct flow *flow,
					    bool full)
{
	if (full && (flow->state == STATE_TCP_NEW || flow->state == STATE_UDP_NEW)) {
		verdict_count(COUNT_FLOWS_RECYCLED);
		return true;
	}
	return track_is_dead(key, flow);
}

static __always_inline struct flow_turn *track_turn(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&kpb_flow_turn, &zero);
}

static __always_inline __u32 track_ring_index(__u64 turn)
{
	return bpf_get_smp_processor_id() * kpb_config.flow_ring +
	       (turn & (kpb_config.flow_ring - 1));
}

/* Whether removing the flow that stands in a place of the ring made room. */
static __always_inline bool track_clear_place(__u32 index, bool full)
{
	const struct tuple *place = bpf_map_lookup_elem(&kpb_flow_ring, &index);
	const struct flow *flow;

	if (!place || !place->protocol)
		return false;
	flow = bpf_map_lookup_elem(&kpb_flows, place);
	if (!flow || !track_gives_way(place, flow, full))
		return false;
	track_remove(place, flow);
	return true;
}

static __always_inline bool track_is_free_place(__u32 index)
{
	const struct tuple *place = bpf_map_lookup_elem(&kpb_flow_ring, &index);

	return place && (!place->protocol || !bpf_map_lookup_elem(&kpb_flows, place));
}

/*
 * Where in the ring a new flow is noted: the next place whose flow is over, or the last one looked
 * at. A global function, as the next one, so that the verifier looks at it once.
 */
__weak __noinline int track_ring_place(void)
{
	struct flow_turn *turn = track_turn();
	__u32 index = 0;

	for (int i = 0; turn && i < TRACK_RING_TRIES; i++) {
		index = track_ring_index(turn->made++);
		if (track_is_free_place(index) || track_clear_place(index, false))
			break;
	}
	return index;
}

/*
 * The table is full: judge the oldest flows of this processor, from where the last time ended,
 * then some of any processor.
 */
__weak __noinline int track_make_room(void)
{
	struct flow_turn *turn = track_turn();

	for (int i = 0; turn && i < TRACK_ROOM_TRIES; i++) {
		__u64 oldest =
			turn->made > kpb_config.flow_ring ? turn->made - kpb_config.flow_ring : 0;

		if (turn->judged < oldest || turn->judged >= turn->made)
			turn->judged = oldest;
		if (track_clear_place(track_ring_index(turn->judged++), true))
			return true;
	}
	for (int i = 0; i < TRACK_ROOM_TRIES; i++) {
		__u64 places = (__u64)kpb_config.flow_ring * kpb_config.processors;

		if (track_clear_place(bpf_get_prandom_u32() * places >> 32, true))
			return true;
	}
	return false;
}

static __always_inline long track_put(const struct tuple *key, const struct flow *flow)
{
	long error = bpf_map_update_elem(&kpb_flows, key, flow, BPF_NOEXIST);

	if (error != -KPB_E2BIG || !track_make_room())
		return error;
	return bpf_map_update_elem(&kpb_flows, key, flow, BPF_NOEXIST);
}

/* Put an entry, also where a dead one stands. */
static __always_inline long track_claim(const struct tuple *key, struct flow *flow)
{
	const struct flow *other;
	long error;

	flow->check = track_check(key);
	error = track_put(key, flow);
	if (error != -KPB_EEXIST)
		return error;
	other = bpf_map_lookup_elem(&kpb_flows, key);
	if (!other || !track_is_dead(key, other))
		return error;
	track_remove(key, other);
	return track_put(key, flow);
}

static __always_inline void track_note_place(const struct tuple *key)
{
	__u32 index = track_ring_place();
	struct tuple *place = bpf_map_lookup_elem(&kpb_flow_ring, &index);

	if (place)
		*place = *key;
}

/*
 * Both entries or none. -KPB_EEXIST if the partner's key is taken: then another port may do. 1 if
 * another processor made the flow meanwhile: then pair->flow is what it made.
 */
static __noinline long track_make(struct track_pair *pair)
{
	const struct flow *other;
	long error = 0;

	pair->partner_key = track_partner_key(&pair->key, &pair->flow);
	if (track_has_partner(&pair->flow))
		error = track_claim(&pair->partner_key, &pair->partner);
	if (error)
		return error;
	error = track_claim(&pair->key, &pair->flow);
	if (!error) {
		track_note_place(&pair->key);
		return 0;
	}
	if (track_has_partner(&pair->flow))
		bpf_map_delete_elem(&kpb_flows, &pair->partner_key);
	other = bpf_map_lookup_elem(&kpb_flows, &pair->key);
	if (error != -KPB_EEXIST || !other)
		return -KPB_E2BIG;
	pair->flow = *other;
	return 1;
}
