# SPDX-License-Identifier: Apache-2.0
"""What finds no room in a map: it is reported, keeps what it had, disturbs nobody, and heals."""

from __future__ import annotations

import pytest

from kubeproxy_bpf.dataplane.trace import POD
from kubeproxy_bpf.model.types import Changes
from kubeproxy_bpf.plan.records import BackendFlags, VipFlags
from tests.plan_objects import (
    SMALL,
    Bench,
    cluster_ip,
    complete,
    desired,
    external_ip,
    ip,
    port_id,
)

WEB, DNS, API = port_id("web"), port_id("dns"), port_id("api")
VIP, VIP2 = "10.96.0.1", "10.96.0.2"


def targets(bench: Bench, address: str = VIP, port: int = 80) -> set[str]:
    return {name for name, _ in bench.fake.trace(POD, ip(address), port, 6).backends}


@pytest.mark.parametrize(
    "full, capacity",
    [
        ("services", SMALL._replace(services=2)),
        ("records", SMALL._replace(records=2)),
        ("slots", SMALL._replace(slots=3)),
        ("backends", SMALL._replace(backends=3)),
        ("frontends", SMALL._replace(frontends=1)),
    ],
)
def test_what_does_not_fit_is_reported_and_heals(full: str, capacity: object) -> None:
    """A full map concerns one service port only, and only until room appears."""
    bench = Bench(capacity)  # type: ignore[arg-type]
    web = desired([cluster_ip(VIP)], ["10.0.0.1", "10.0.0.2"])
    api = desired([cluster_ip(VIP2)], ["10.0.0.3"])
    bench.sync(complete({WEB: web}))
    plan = bench.sync(Changes({API: api}, {ip(VIP2): int(VipFlags.CLUSTER_IP)}))
    assert [(API, full)] == plan.unfit
    assert {"10.0.0.1", "10.0.0.2"} == targets(bench)

    bench.sync(Changes({WEB: None}, {ip(VIP): 0}))

    assert {"10.0.0.3"} == targets(bench, VIP2)
    assert () == bench.planner.waiting


def test_an_update_that_does_not_fit_keeps_the_old_state() -> None:
    """Old endpoints are better than none, and the new frontend list still holds."""
    bench = Bench(SMALL._replace(slots=4))
    both = [cluster_ip(VIP), external_ip("203.0.113.1")]
    bench.sync(complete({WEB: desired(both, ["10.0.0.1", "10.0.0.2"])}))

    many = [f"10.0.1.{i}" for i in range(3)]
    plan = bench.sync(Changes({WEB: desired([cluster_ip(VIP)], many)}, {}))

    assert [(WEB, "slots")] == plan.unfit
    assert {"10.0.0.1", "10.0.0.2"} == targets(bench)
    assert set() == targets(bench, "203.0.113.1")
    assert {1, 2} == {n for n, b in bench.fake.backends.items() if b.flags & BackendFlags.LIVE}


def test_a_recreated_service_that_does_not_fit_serves_nothing_of_the_old_one() -> None:
    """Endpoints of a deleted Service are never the new one's."""
    bench = Bench(SMALL._replace(slots=4))
    bench.sync(complete({WEB: desired([cluster_ip(VIP)], ["10.0.0.1"])}))

    many = [f"10.0.1.{i}" for i in range(3)]
    bench.plan(Changes({WEB: None, API: desired([cluster_ip(VIP)], many)}, {}))

    assert set() == targets(bench)


def test_vips_that_do_not_fit_heal() -> None:
    """An address without room is named and comes later."""
    bench = Bench(SMALL._replace(vips=1))
    bench.sync(Changes({}, {ip(VIP): 1}, True))
    plan = bench.sync(Changes({}, {ip(VIP2): 1}))
    assert [ip(VIP2)] == plan.vips_unfit

    bench.sync(Changes({}, {ip(VIP): 0}))

    assert {ip(VIP2): 1} == bench.fake.vips
