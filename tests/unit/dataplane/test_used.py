# SPDX-License-Identifier: Apache-2.0
"""How full the maps are, as the programmer tells without a look at them."""

from __future__ import annotations

import pytest

from kubeproxy_bpf.dataplane.fake import FakeDataplane
from kubeproxy_bpf.dataplane.program import Programmer
from kubeproxy_bpf.model.types import Changes
from kubeproxy_bpf.plan.writes import Capacity
from tests.plan_objects import PACKETS, desired, load_balancer, port_id, prefixes, vips_of

CLIENTS = prefixes("192.0.2.0/24", "198.51.100.0/24")
WEB = desired([load_balancer("203.0.113.1")], ["10.0.0.1", "10.0.0.2", "10.0.0.3"])
API = desired([load_balancer("203.0.113.2")], ["10.0.0.3"])
SERVICES = {port_id("web"): WEB._replace(source_ranges=CLIENTS), port_id("api"): API}
CHANGES = Changes(SERVICES, vips_of(SERVICES), complete=True)
USED = Capacity(
    vips=len(CHANGES.vips),
    frontends=2,
    services=2,
    records=2,
    slots=4,
    backends=3,
    source_ranges=len(CLIENTS),
)


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_is_programmed_is_counted(restarted: bool) -> None:
    """Backends that two services share count once; a restart counts the same."""
    dataplane = FakeDataplane(PACKETS)
    programmer = Programmer(dataplane)
    await programmer.start()
    assert programmer.used == Capacity(0, 0, 0, 0, 0, 0)
    await programmer.apply(CHANGES)
    await programmer.settled()
    if restarted:
        programmer = Programmer(dataplane)
        await programmer.start()
        await programmer.apply(CHANGES)
        await programmer.settled()

    assert programmer.used == USED
    held = dataplane
    assert (len(held.vips), len(held.frontends)) == (USED.vips, USED.frontends)
    assert len(held.source_ranges) == USED.source_ranges
    assert programmer.capacity == PACKETS


async def test_what_went_is_free_after_its_grace_period() -> None:
    """Not before: until then programs may read it, and nobody else is given it."""
    programmer = Programmer(FakeDataplane(PACKETS))
    await programmer.start()
    await programmer.apply(CHANGES)
    await programmer.settled()
    await programmer.apply(Changes({port_id("web"): None}, {}))
    assert programmer.used.slots == USED.slots
    await programmer.settled()

    left = programmer.used
    assert (left.frontends, left.services, left.slots, left.backends) == (1, 1, 1, 1)
    assert left.source_ranges == 0
