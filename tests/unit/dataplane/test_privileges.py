# SPDX-License-Identifier: Apache-2.0
"""What a process may do, by its capabilities, and what it is told when it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubeproxy_bpf.dataplane.privileges import Capability, effective, privileges

_LOADING = {Capability.BPF, Capability.PERFMON, Capability.NET_ADMIN}


def necessary_but_missing(held: frozenset[Capability]) -> set[str]:
    return {each.name for each in privileges(held) if each.necessary and not each.held}


def test_the_mask_of_the_kernel_is_read(tmp_path: Path) -> None:
    """The effective set counts, not what could be made effective."""
    status = tmp_path / "status"
    lines = ["Name:\tx", "CapPrm:\t000001ffffffffff", "CapEff:\t000000c000001000", "CapBnd:\t1", ""]
    status.write_text("\n".join(lines))
    assert {Capability.BPF, Capability.PERFMON, Capability.NET_ADMIN} == effective(status)


@pytest.mark.parametrize("missing", sorted(_LOADING))
def test_what_loading_takes_is_named(missing: Capability) -> None:
    """Each of the three that load programs is necessary, unless the large one is there."""
    held = frozenset(_LOADING - {missing})
    assert {f"CAP_{missing.name}"} == necessary_but_missing(held)
    assert set() == necessary_but_missing(held | {Capability.SYS_ADMIN})


def test_what_is_lost_without_the_others_is_told() -> None:
    """A capability that is not necessary says what happens without it."""
    for each in privileges(frozenset(_LOADING)):
        assert each.held == (each.capability in _LOADING)
        assert each.held or "without it" in each.purpose
