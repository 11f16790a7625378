/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The configuration, in .rodata: user space fills it before the load, and the verifier removes
 * what it switches off. One weak copy per hook file; the linker keeps one.
 */
#pragma once

#include "kpb_types.h"

__weak const volatile struct kpb_config kpb_config = {};
