# SPDX-License-Identifier: Apache-2.0
"""What a sync and the feed before it make of kube-proxy's metrics."""

import pytest

from kubeproxy_bpf import meters as module
from kubeproxy_bpf.api.objects import ObjectKey
from kubeproxy_bpf.meters import SyncMeters
from kubeproxy_bpf.model.types import BackendSpec, Changes, Desired, ServicePortId
from kubeproxy_bpf.plan.records import RecordFlags

WEB = ObjectKey("ns", "web")
INTERNAL, EXTERNAL, SOME = (
    RecordFlags.INTERNAL_LOCAL,
    RecordFlags.EXTERNAL_LOCAL,
    RecordFlags.HAS_ENDPOINTS,
)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def meters(clock):
    return SyncMeters(("IPv4", "IPv6"), clock)


def port(family=4, name="web"):
    return ServicePortId("service", "ns", name, "http", 6, family)


def desired(flags=0, local=0):
    backend = BackendSpec(bytes(16), 80, 6, 0)
    return Desired((), (backend,), 1, 0, local, 0, int(flags))


def series(meters, name):
    (family,) = [family for family in meters.families() if family.name == f"kubeproxy_{name}"]
    return family.series


def observed(meters, name):
    return {labels: sum(found.counts) for labels, found in series(meters, name).items()}


def synced(meters, changes, seconds=0.01):
    meters.begun()
    meters.ended(changes, seconds)
    meters.finished()


def test_a_trigger_is_observed_once_when_its_sync_is_done(meters, clock):
    """Not before everything is programmed, and not again by the next sync."""
    clock.now = 1010.0
    meters.slice_changed("IPv4", WEB, 1009.0)
    meters.begun()
    meters.ended(Changes({port(): desired()}, {}), 0.01)
    assert {} == observed(meters, "network_programming_duration_seconds")
    clock.now = 1012.0
    meters.finished()
    synced(meters, Changes({}, {}))

    assert {("IPv4",): 1} == observed(meters, "network_programming_duration_seconds")
    assert 3.0 == series(meters, "network_programming_duration_seconds")[("IPv4",)].sum


def test_a_trigger_during_a_sync_waits_for_the_next(meters, clock):
    """What the sync did not take it did not program."""
    clock.now = 1010.0
    meters.begun()
    meters.slice_changed("IPv6", WEB, 1009.0)
    meters.finished()
    assert {} == observed(meters, "network_programming_duration_seconds")
    synced(meters, Changes({}, {}))

    assert {("IPv6",): 1} == observed(meters, "network_programming_duration_seconds")


def test_triggers_from_before_the_start_are_no_latency(meters):
    """The initial list is full of them; 0 stands for no trigger at all."""
    meters.slice_changed("IPv4", WEB, 999.0)
    meters.slice_changed("IPv4", WEB, 0.0)
    synced(meters, Changes({}, {}, complete=True))

    assert {} == observed(meters, "network_programming_duration_seconds")


def test_a_slice_that_goes_takes_its_triggers_along(meters, clock):
    """Those of its Service in its family: the end of a slice is not what they were for."""
    clock.now = 1010.0
    for family, name in (("IPv4", "web"), ("IPv6", "web"), ("IPv4", "api")):
        meters.slice_changed(family, ObjectKey("ns", name), 1009.0)
    meters.slice_removed("IPv4", WEB)
    synced(meters, Changes({}, {}))

    counts = observed(meters, "network_programming_duration_seconds")
    assert {("IPv4",): 1, ("IPv6",): 1} == counts


def test_triggers_do_not_become_ever_more(meters, clock, monkeypatch):
    """While nothing can be programmed; the oldest are kept."""
    monkeypatch.setattr(module, "_TAKEN_MAX", 3)
    clock.now = 1010.0
    for triggered in range(1001, 1009):
        meters.slice_changed("IPv4", WEB, float(triggered))
        meters.begun()
    meters.finished()

    found = series(meters, "network_programming_duration_seconds")[("IPv4",)]
    assert (3, 9.0 + 8.0 + 7.0) == (sum(found.counts), found.sum)


def test_changes_are_counted_until_a_sync_takes_them(meters):
    """Services once for each family, slices of families that are served once."""
    meters.service_changed(WEB)
    meters.service_changed(WEB)
    meters.slice_changed("IPv4", WEB, 0.0)
    meters.slice_changed("FQDN", WEB, 0.0)
    total, pending = "sync_proxy_rules_{}_changes_total", "sync_proxy_rules_{}_changes_pending"
    assert {(): 4} == series(meters, total.format("service"))
    assert {(): 1} == series(meters, pending.format("service"))
    assert {(): 1} == series(meters, total.format("endpoint"))
    assert {(): 1} == series(meters, pending.format("endpoint"))
    meters.begun()

    assert {(): 0} == series(meters, pending.format("service"))
    assert {(): 0} == series(meters, pending.format("endpoint"))


def test_a_sync_is_full_or_partial_and_belongs_to_the_families_that_it_changed(meters):
    """A full one belongs to all of them."""
    synced(meters, Changes({port(): desired()}, {}, complete=True))
    synced(meters, Changes({port(): desired()}, {}))

    assert {("IPv4",): 2, ("IPv6",): 1} == observed(meters, "sync_proxy_rules_duration_seconds")
    full, partial = (f"sync_{kind}_proxy_rules_duration_seconds" for kind in ("full", "partial"))
    assert {("IPv4",): 1, ("IPv6",): 1} == observed(meters, full)
    assert {("IPv4",): 1} == observed(meters, partial)


def test_times_are_those_of_the_last_request_and_the_last_success(meters, clock):
    """In every family, as each sync is one of all."""
    meters.queued()
    clock.now = 1005.0
    meters.finished()

    queued = series(meters, "sync_proxy_rules_last_queued_timestamp_seconds")
    assert {("IPv4",): 1000.0, ("IPv6",): 1000.0} == queued
    done = series(meters, "sync_proxy_rules_last_timestamp_seconds")
    assert {("IPv4",): 1005.0, ("IPv6",): 1005.0} == done


def test_local_policies_without_local_endpoint_are_counted(meters):
    """With endpoints elsewhere only; each policy by itself; until endpoints come or it goes."""
    name = "sync_proxy_rules_no_local_endpoints_total"
    ports = {
        port(): desired(SOME | INTERNAL | EXTERNAL),
        port(name="here"): desired(SOME | EXTERNAL, local=1),
        port(name="none"): desired(EXTERNAL),
        port(name="cluster"): desired(SOME),
        port(6): desired(SOME | EXTERNAL),
    }
    synced(meters, Changes(ports, {}, complete=True))
    counts = {
        ("IPv4", "internal"): 1,
        ("IPv4", "external"): 1,
        ("IPv6", "internal"): 0,
        ("IPv6", "external"): 1,
    }
    assert counts == series(meters, name)
    synced(meters, Changes({port(): desired(SOME | INTERNAL, local=1), port(6): None}, {}))

    assert dict.fromkeys(counts, 0) == series(meters, name)


def test_a_sync_of_everything_forgets_what_it_does_not_name(meters):
    """What went while nobody looked is not counted for ever."""
    name = "sync_proxy_rules_no_local_endpoints_total"
    synced(meters, Changes({port(): desired(SOME | EXTERNAL)}, {}, complete=True))
    assert 1 == series(meters, name)[("IPv4", "external")]
    synced(meters, Changes({}, {}))
    assert 1 == series(meters, name)[("IPv4", "external")]
    synced(meters, Changes({}, {}, complete=True))

    assert 0 == series(meters, name)[("IPv4", "external")]
