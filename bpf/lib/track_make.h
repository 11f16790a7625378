/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Makes the entries of a flow, and room for them. Every flow stands in one queue, in the order in
 * which flows were made: a new one looks at the first in line, and a full table at more of them.
 */
#pragma once

#include "track.h"

/* Flows that a full table can do without: unanswered, over, or silent for a while. */
static __always_inline bool track_is_unsettled(const struct flow *flow)
{
	__u32 seen = flow->deadline - track_timeout(flow->state);

	switch (flow->state) {
	case STATE_TCP_NEW:
	case STATE_TCP_REPLIED:
	case STATE_TCP_TIME_WAIT:
	case STATE_TCP_CLOSED:
	case STATE_UDP_NEW:
		return true;
	case STATE_UDP_REPLIED:
		return !(flow->flags & TRACK_ASSURED) || (__s32)(track_now() - seen) > TRACK_SILENT;
	case STATE_OTHER:
		return (__s32)(track_now() - seen) > TRACK_SILENT;
	default:
		return false;
	}
}

static __always_inline bool track_gives_way(const struct tuple *key, const struct flow *flow,
					    bool full)
{
	if (track_is_dead(key, flow))
		return true;
	if (!full || !track_is_unsettled(flow))
		return false;
	verdict_count(COUNT_FLOWS_RECYCLED);
	return true;
}

static __always_inline void track_line_up(struct track_place *place, __u32 deadline)
{
	__u32 look = track_now() + TRACK_LOOK;

	place->due = (__s32)(deadline - look) < 0 ? deadline : look;
	bpf_map_push_elem(&kpb_flow_queue, place, BPF_EXIST);
}

/* Take out who waits longest, but before time only in need: a look costs a lookup far away. */
static __always_inline bool track_next_place(struct track_place *place, bool full)
{
	if (!full &&
	    (bpf_map_peek_elem(&kpb_flow_queue, place) || (__s32)(track_now() - place->due) <= 0))
		return false;
	return !bpf_map_pop_elem(&kpb_flow_queue, place);
}

/*
 * Judge the flows that wait longest, until one of them made room; who lives lines up again. A flow
 * that was made anew has another turn, and its old place is void. A global function, so that the
 * verifier looks at it once.
 */
__weak __noinline int track_make_room(__u32 tries, __u32 full)
{
	struct track_place place;
	struct flow *flow;

	for (__u32 i = 0; i < TRACK_TRIES_FULL && i < tries; i++) {
		if (!track_next_place(&place, full))
			return false;
		flow = bpf_map_lookup_elem(&kpb_flows, &place.key);
		if (!flow || flow->turn != place.turn)
			continue;
		if (!track_gives_way(&place.key, flow, full))
			track_line_up(&place, flow->deadline);
		else if (track_remove(&place.key, flow, place.turn))
			return true;
	}
	return false;
}

/* Memory may run out before the table is full: what goes gives it back. */
static __always_inline long track_put(const struct tuple *key, const struct flow *flow)
{
	long error = bpf_map_update_elem(&kpb_flows, key, flow, BPF_NOEXIST);

	if ((error != -KPB_E2BIG && error != -KPB_ENOMEM) ||
	    !track_make_room(TRACK_TRIES_FULL, true))
		return error;
	return bpf_map_update_elem(&kpb_flows, key, flow, BPF_NOEXIST);
}

/* A flow that is being made, or a handshake on its way, is not over yet. */
static __always_inline bool track_is_young(const struct flow *flow)
{
	return (__s32)(track_now() + track_timeout(flow->state) - flow->deadline) < TRACK_YOUNG;
}

/* In need: neither direction of the flow speaks for keeping it. */
static __noinline int track_yields(const struct tuple *key, const struct flow *flow)
{
	struct tuple partner_key = track_partner_key(key, flow);
	const struct scratch *work = scratch();
	const struct flow *partner;

	if (!work || !work->force || !track_is_unsettled(flow) || track_is_young(flow))
		return false;
	partner = bpf_map_lookup_elem(&kpb_flows, &partner_key);
	return !partner || track_is_unsettled(partner);
}

/* Where another processor is just about to delete what it made void; only that one may. */
static __noinline long track_put_after(const struct tuple *key, const struct flow *flow)
{
	long error = -KPB_EEXIST;

	for (__u32 i = 0; i < TRACK_TRIES_VOID && error == -KPB_EEXIST; i++)
		error = bpf_map_update_elem(&kpb_flows, key, flow, BPF_NOEXIST);
	return error;
}

/* Put an entry, also where a dead one stands. */
static __always_inline long track_claim(const struct tuple *key, struct flow *flow)
{
	struct flow *other;
	long error;
	__u8 turn;

	flow->check = track_check(key, flow->turn);
	error = track_put(key, flow);
	if (error != -KPB_EEXIST)
		return error;
	other = bpf_map_lookup_elem(&kpb_flows, key);
	if (!other)
		return error;
	turn = other->turn;
	if (track_is_void(key, other))
		return track_put_after(key, flow);
	if (!track_is_dead(key, other) && !track_yields(key, other))
		return error;
	if (!track_remove(key, other, turn))
		return error;
	return track_put(key, flow);
}

/* Two of the old for each new one: so the dead are never more than a fraction of the living. */
static __always_inline void track_note(const struct tuple *key, const struct flow *flow)
{
	struct track_place place = {.key = *key, .turn = flow->turn};

	track_make_room(TRACK_TRIES, false);
	track_line_up(&place, flow->deadline);
}

#ifndef KPB_XDP

/* An entry without partner; it takes the place of such a one, but never half of a live pair. */
static __noinline long track_put_alone(const struct tuple *key, struct flow *flow)
{
	struct flow *other = bpf_map_lookup_elem(&kpb_flows, key);
	long error;

	if (other && track_has_partner(other)) {
		if (!track_is_dead(key, other) || !track_remove(key, other, other->turn))
			return -KPB_EEXIST;
		other = NULL;
	}
	flow->flags |= TRACK_ALONE;
	flow->turn = other ? other->turn : bpf_get_prandom_u32();
	flow->check = track_check(key, flow->turn);
	if (other)
		return bpf_map_update_elem(&kpb_flows, key, flow, BPF_EXIST);
	error = track_put(key, flow);
	if (!error)
		track_note(key, flow);
	return error;
}

#endif

/* The entry that packets find, to a partner that is there; the result is that of track_make(). */
static __always_inline long track_publish(struct track_pair *pair)
{
	long error = track_claim(&pair->key, &pair->flow);
	const struct flow *other;

	if (!error)
		return 0;
	if (track_has_partner(&pair->flow))
		bpf_map_delete_elem(&kpb_flows, &pair->partner_key);
	other = bpf_map_lookup_elem(&kpb_flows, &pair->key);
	if (error != -KPB_EEXIST || !other || track_is_void(&pair->key, other))
		return -KPB_E2BIG;
	pair->flow = *other;
	return 1;
}

/* From one port of a host to the same: of such packets nobody could tell which way they go. */
static __always_inline bool track_leads_to_itself(const struct flow *flow)
{
	return flow->source_port == flow->destination_port &&
	       addr_equal(&flow->source, &flow->destination);
}

/*
 * Both entries or none. -KPB_EEXIST if the partner's key is taken: then another port may do. 1 if
 * another processor made the flow meanwhile: then pair->flow is what it made.
 */
static __noinline long track_make(struct track_pair *pair)
{
	long error = 0;

	pair->partner_key = track_partner_key(&pair->key, &pair->flow);
	pair->flow.turn = bpf_get_prandom_u32();
	pair->partner.turn = pair->flow.turn;
	if (track_leads_to_itself(&pair->flow))
		return -KPB_EEXIST;
	if (track_has_partner(&pair->flow))
		error = track_claim(&pair->partner_key, &pair->partner);
	if (error || pair->step == TRACK_RESERVE)
		return error;
	error = track_publish(pair);
	if (!error && pair->step == TRACK_WHOLE)
		track_note(&pair->key, &pair->flow);
	return error;
}
