# SPDX-License-Identifier: Apache-2.0
"""Every program loads with each switch flipped, far from the verifier's limit."""

from __future__ import annotations

from typing import Callable

import pytest

from kubeproxy_bpf.dataplane.settings import ConfigFlags

from .conftest import DETECTOR, Loaded, settings
from .instructions import VERIFIER_LIMIT, program_sizes

pytestmark = pytest.mark.root

NONE, ALL = ConfigFlags(0), ~ConfigFlags(0)


@pytest.mark.parametrize("flipped", (NONE, *ConfigFlags, ALL), ids=lambda flag: flag.name or "none")
def test_programs_load(
    loaded: Loaded,
    flipped: ConfigFlags,
    record_property: Callable[[str, object], None],
    long: bool,
) -> None:
    """All programs load with a switch the other way, and all of them; their sizes are recorded.

    Those for devices without Ethernet header, which are the same but for the header, with none and
    with all of the switches, and with ``--long`` with each.
    """
    bare_ip = long or flipped in (NONE, ALL)
    sizes = program_sizes(loaded(settings(int(DETECTOR ^ flipped)), bare_ip).programs)
    assert len(sizes) >= (6 if bare_ip else 4)
    for size in sizes:
        record_property(size.program, f"{size.instructions} instructions, {size.verified} verified")
        assert size.verified < VERIFIER_LIMIT // 2
