/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What passes for each Service, where the operator asked for it. Each processor counts for itself.
 * New flows of the packet path are counted always, in kpb_stats.
 */
#pragma once

#include "kpb.h"

static __always_inline struct service_traffic *traffic_of(__u32 service)
{
	if (!(kpb_config.flags & CONFIG_SERVICE_TRAFFIC))
		return NULL;
	return bpf_map_lookup_elem(&kpb_traffic, &service);
}

static __always_inline void traffic_connection(__u32 service)
{
	struct service_traffic *traffic = traffic_of(service);

	if (traffic)
		traffic->connections += 1;
}

static __always_inline void traffic_packets(__u32 service, __u32 packets, __u32 bytes)
{
	struct service_traffic *traffic = traffic_of(service);

	if (!traffic)
		return;
	traffic->packets += packets;
	traffic->bytes += bytes;
}
