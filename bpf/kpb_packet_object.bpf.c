/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the packet object carries once: its licence, and the enums that user space checks. */
#include "kpb.h"
#include "kpb_packet_maps.h"

char kpb_license[] SEC("license") = "Dual BSD/GPL";

struct kpb_packet_enums {
	enum vip_flags vip_flags;
	enum frontend_kind frontend_kind;
	enum frontend_flags frontend_flags;
	enum record_flags record_flags;
	enum backend_flags backend_flags;
	enum client_kind client_kind;
	enum affinity_window affinity_window;
	enum counter counter;
	enum config_flags config_flags;
	enum track_flags track_flags;
	enum track_state track_state;
	enum device_flags device_flags;
};

const volatile struct kpb_packet_enums kpb_packet_enums = {};
