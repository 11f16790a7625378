/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the object carries once: its licence, and the enums that user space checks by name. */
#include "kpb.h"

char kpb_license[] SEC("license") = "Dual BSD/GPL";

/* Constants alone leave no trace of their enum in BTF; a variable of the type does. */
struct kpb_enums {
	enum vip_flags vip_flags;
	enum frontend_kind frontend_kind;
	enum frontend_flags frontend_flags;
	enum record_flags record_flags;
	enum backend_flags backend_flags;
	enum client_kind client_kind;
	enum affinity_window affinity_window;
	enum flow_flags flow_flags;
	enum flow_direction flow_direction;
	enum counter counter;
	enum config_flags config_flags;
};

const volatile struct kpb_enums kpb_enums = {};
