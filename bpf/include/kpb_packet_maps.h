/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps of the packet path, beside those of kpb_maps.h; the same rules. */
#pragma once

#include "kpb_packet_types.h"

/* Not preallocated: memory follows the number of flows, up to the size. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct tuple);
	__type(value, struct flow);
} kpb_flows SEC(".maps") __weak;

/*
 * The flows in the order in which they were made, or judged last: where a new flow looks for room,
 * so that expiry needs no agent. One for all processors, since a device with one receive queue
 * makes all flows on one of them.
 */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 262144);
	__type(value, struct track_place);
} kpb_flow_queue SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
} kpb_fragments SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct device);
} kpb_devices SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct node);
} kpb_node SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct source_range_key);
	__type(value, struct source_range);
} kpb_source_ranges SEC(".maps") __weak;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 32768);
	__type(key, __u32);
	__type(value, struct service_stats);
} kpb_stats SEC(".maps") __weak;
