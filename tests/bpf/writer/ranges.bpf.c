/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Asks the map of source ranges as the packet programs do: is this source let in? */
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "kpb_types.h"
#include "kpb_packet_maps.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum { ALL_BITS = 32 + 128, QUESTION = 14 /* behind the Ethernet header */ };

/* The packet holds the index of a service in the host's order and the address of a source. */
SEC("tc")
int t_allowed(struct __sk_buff *skb)
{
	struct source_range_key key = {.prefix_bits = ALL_BITS};
	const struct source_range *range;

	if (bpf_skb_load_bytes(skb, QUESTION, &key.service, sizeof(key) - sizeof(key.prefix_bits)))
		return -1;
	range = bpf_map_lookup_elem(&kpb_source_ranges, &key);
	return range ? range->allow : 0;
}
