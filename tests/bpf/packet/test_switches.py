# SPDX-License-Identifier: Apache-2.0
"""Every program loads with each switch flipped, far from the verifier's limit."""

from __future__ import annotations

from typing import Callable

import pytest

from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.dataplane.settings import ConfigFlags, Settings

from .conftest import DETECTOR, settings
from .instructions import VERIFIER_LIMIT, program_sizes

pytestmark = pytest.mark.root

NONE, ALL = ConfigFlags(0), ~ConfigFlags(0)


@pytest.mark.parametrize("flipped", (NONE, *ConfigFlags, ALL), ids=lambda flag: flag.name or "none")
def test_programs_load(
    loaded: Callable[[Settings], Datapath],
    flipped: ConfigFlags,
    record_property: Callable[[str, object], None],
) -> None:
    """All programs load with a switch the other way, and all of them; their sizes are recorded."""
    sizes = program_sizes(loaded(settings(int(DETECTOR ^ flipped))).programs)
    assert len(sizes) == 6
    for size in sizes:
        record_property(size.program, f"{size.instructions} instructions, {size.verified} verified")
        assert size.verified < VERIFIER_LIMIT // 2
