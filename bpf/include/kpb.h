/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What every hook file starts with, in the order that the headers need. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_core_read.h>

#include "vmlinux_local.h"
#include "kpb_types.h"
#include "kpb_config.h"
#include "kpb_maps.h"

/* Of headers that a BPF build cannot include. */
enum { KPB_AF_INET = 2, KPB_AF_INET6 = 10 };
enum { KPB_IPPROTO_TCP = 6, KPB_IPPROTO_UDP = 17 };
enum { KPB_EADDRINUSE = 98, KPB_ECONNREFUSED = 111, KPB_EHOSTUNREACH = 113 };

/*
 * True on kernels that have the helper; a constant by the time the verifier looks. Tests build
 * the programs as an old kernel sees them.
 */
#ifdef KPB_OLD_KERNEL
#define kernel_has(helper) false
#else
#define kernel_has(helper) bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_##helper)
#endif
