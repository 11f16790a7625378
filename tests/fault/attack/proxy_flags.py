# SPDX-License-Identifier: Apache-2.0
"""How the proxies are started that are attacked: a table that can be filled, and every page."""

from __future__ import annotations

FLOWS = 16384
FLAGS = (f"--bpf-max-flows={FLOWS}", "--profiling", "--feature-gates=AllAlpha=true,AllBeta=true")
