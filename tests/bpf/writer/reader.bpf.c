/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A reader that dawdles: frontend → (wait) → word → record → slots → backends, as the programs do,
 * but it stays between finding a frontend and using it, and between all later reads.
 *
 * What it may see is coded in the backends: the last four bytes of an address name the frontend
 * (two bytes), the set (one) and the member (one). All members of one visit must name the frontend
 * that was asked for and one set.
 */
#include <stdbool.h>
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_core_read.h>

#include "kpb_types.h"
#include "kpb_maps.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum { MEMBERS = 8, VISITS = 8 };

struct visit {
	struct frontend_key key;
	__u32 wait; /* turns to stay after each read */
	__u64 seen;
	__u64 missed;	/* no such frontend just now */
	__u64 violated;
	__u64 example; /* what was seen in the first violation */
};

/* Keeps the struct in BTF and its state between runs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct visit);
} t_visit SEC(".maps");

/* Constants alone do not keep an enum in BTF; the writer compares them all. */
enum vip_flags t_vip_flags;
enum frontend_kind t_frontend_kind;
enum frontend_flags t_frontend_flags;
enum record_flags t_record_flags;
enum backend_flags t_backend_flags;

static volatile __u64 sink;

static long idle(__u32 turn, void *unused)
{
	sink += turn;
	return 0;
}

static void violate(struct visit *visit, __u64 what)
{
	if (!visit->violated++)
		visit->example = what;
}

static bool member_is(struct visit *visit, const struct record *record, __u32 number, __u32 *set)
{
	__u32 position = record->slots + number;
	const struct slot *slot = bpf_map_lookup_elem(&kpb_slots, &position);
	const struct backend *backend;
	__u32 id = slot ? slot->backend : 0;
	__u32 name;

	bpf_loop(visit->wait, idle, NULL, 0);
	backend = bpf_map_lookup_elem(&kpb_backends, &id);
	if (!id || !backend || !(backend->flags & BACKEND_LIVE)) {
		violate(visit, 1ULL << 62 | id);
		return false;
	}
	name = bpf_ntohl(backend->address.word[3]);
	if (name >> 16 != bpf_ntohs(visit->key.port) || (*set && *set != (name >> 8 & 0xff))) {
		violate(visit, 1ULL << 61 | name);
		return false;
	}
	*set = name >> 8 & 0xff;
	return true;
}

static long look(__u32 turn, void *unused)
{
	const struct frontend *frontend;
	const struct record *record;
	const volatile __u64 *word;
	__u32 id = 0, set = 0;
	struct visit *visit = bpf_map_lookup_elem(&t_visit, &id);

	if (!visit)
		return 1;
	frontend = bpf_map_lookup_elem(&kpb_frontends, &visit->key);
	if (!frontend) {
		visit->missed++;
		return 0;
	}
	bpf_loop(visit->wait, idle, NULL, 0);
	id = *(const volatile __u32 *)&frontend->service;
	word = bpf_map_lookup_elem(&kpb_services, &id);
	id = word ? (__u32)*word : 0;
	bpf_loop(visit->wait, idle, NULL, 0);
	record = bpf_map_lookup_elem(&kpb_records, &id);
	if (!id || !record || record->members != MEMBERS) {
		violate(visit, 1ULL << 63 | id);
		return 0;
	}
	visit->seen++;
	for (__u32 i = 0; i < MEMBERS; i++)
		if (!member_is(visit, record, i, &set))
			return 0;
	return 0;
}

SEC("xdp")
int t_read(struct xdp_md *ctx)
{
	bpf_loop(VISITS, look, NULL, 0);
	return XDP_PASS;
}

/* The two halves of the word are stored equal: a torn store would show two different ones. */
static long compare(__u32 turn, void *unused)
{
	__u32 zero = 0, one = 1;
	struct visit *visit = bpf_map_lookup_elem(&t_visit, &zero);
	const volatile __u64 *word = bpf_map_lookup_elem(&kpb_services, &one);
	__u64 value;

	if (!visit || !word)
		return 1;
	value = *word;
	visit->seen++;
	if ((__u32)value != (__u32)(value >> 32))
		violate(visit, value);
	return 0;
}

SEC("xdp")
int t_tear(struct xdp_md *ctx)
{
	bpf_loop(10000, compare, NULL, 0);
	return XDP_PASS;
}
