# SPDX-License-Identifier: Apache-2.0
"""Health follows the oldest change that is not yet programmed (parity/http.md)."""

from datetime import datetime, timedelta, timezone

import pytest

from kubeproxy_bpf.api.objects import Node
from kubeproxy_bpf.serve.health import AUTOSCALER_TAINT, Health


class Clock:
    def __init__(self):
        self.time = datetime(2026, 1, 1, tzinfo=timezone.utc)

    def __call__(self):
        return self.time

    def advance(self, seconds):
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def health(clock):
    health = Health(("IPv4", "IPv6"), 60.0, clock)
    health.node_seen(node())
    health.sync_finished()
    return health


def node(**changes):
    return Node("n1", "", (), (), False, ())._replace(**changes)


def test_alive_but_not_ready_before_the_first_sync(clock):
    """The process is well, but load balancers must not send traffic yet."""
    health = Health(("IPv4",), 60.0, clock)
    health.node_seen(node())
    assert (200, 503) == (health.livez()[0], health.healthz()[0])

    health.sync_finished()
    assert 200 == health.healthz()[0]


def test_useless_hooks_turn_away_load_balancers_and_nobody_else(health):
    """The reason stands in the body; a restart would not help, so /livez knows nothing of it."""
    health.sync_finished()
    health.hooks_judged("they do not run")

    status, body = health.healthz()

    assert (503, False, "they do not run") == (status, body["healthy"], body["hooksFault"])
    assert (200, True) == (health.livez()[0], health.livez()[1]["healthy"])
    assert health.healthy, "what serves by packet goes on: health check node ports stay"
    health.hooks_judged("")
    assert 200 == health.healthz()[0] and "hooksFault" not in health.healthz()[1]


def test_an_update_goes_on_past_nodes_that_are_drained(clock):
    """Ready is who has programmed what the API server said, whatever becomes of the node."""
    health = Health(("IPv4",), 60.0, clock)
    assert 503 == health.readyz()[0]
    health.sync_finished(known=False)
    assert 503 == health.readyz()[0], "a memory is not what the API server says"
    health.sync_finished()
    health.node_seen(node(deleting=True))
    health.hooks_judged("they do not run")
    assert (503, 200) == (health.healthz()[0], health.readyz()[0])
    health.writer_awaited()
    assert 503 == health.readyz()[0]


def test_no_change_is_healthy_for_ever(health, clock):
    """Without a pending change no heartbeat is needed."""
    health.sync_finished()
    clock.advance(10_000)

    assert 200 == health.livez()[0]


def test_a_change_that_stays_unapplied_is_unhealthy(health, clock):
    """The oldest pending change counts, later ones do not refresh it."""
    health.change_queued()
    clock.advance(59)
    health.change_queued()
    assert 200 == health.livez()[0]

    clock.advance(1)
    status, body = health.livez()

    assert 503 == status
    assert body["healthy"] is False
    assert "2026-01-01T00:00:00Z" == body["lastUpdated"]

    health.sync_begun()
    health.sync_finished()
    assert 200 == health.livez()[0]


def test_a_change_that_comes_during_a_sync_still_counts(health, clock):
    """Only what was queued when the sync began is programmed by it."""
    health.change_queued()
    health.sync_begun()
    clock.advance(1)
    health.change_queued()
    health.sync_finished()
    assert 200 == health.livez()[0]

    clock.advance(60)
    assert 503 == health.livez()[0]


def test_a_sync_that_fails_does_not_rejuvenate_its_changes(health, clock):
    """However often it is begun, the oldest change counts until one finishes."""
    health.change_queued()
    for _ in range(4):
        health.sync_begun()
        clock.advance(15)
    assert 503 == health.livez()[0]


@pytest.mark.parametrize("changes", [{"deleting": True}, {"taints": ("a", AUTOSCALER_TAINT)}])
def test_a_node_that_is_going_away_is_not_eligible(health, changes):
    """/healthz turns 503 so that load balancers drain the node; /livez stays 200."""
    health.node_seen(node(**changes))
    status, body = health.healthz()

    assert 503 == status
    assert body["healthy"] is True
    assert body["nodeEligible"] is False
    assert 200 == health.livez()[0]
    assert "nodeEligible" not in health.livez()[1]


def test_a_deleted_node_keeps_its_verdict(health):
    """ "Not yet known" is not "deleted": the last Node seen decides."""
    health.node_seen(None)

    assert 200 == health.healthz()[0]


def test_a_node_never_seen_is_not_eligible(clock):
    """Until the Node is known no external traffic should come."""
    health = Health(("IPv4",), 60.0, clock)
    health.sync_finished()

    assert 503 == health.healthz()[0]


def test_waiting_for_the_writer_is_unhealthy(health):
    """A second process must not look as if it served."""
    health.writer_awaited()
    assert 503 == health.livez()[0]

    health.sync_finished()
    assert 200 == health.livez()[0]


def test_a_family_that_no_change_touched_stays_healthy(health, clock):
    """What cannot be programmed for IPv6 says nothing about IPv4; both together do."""
    health.change_queued()
    health.sync_begun({"IPv6"})
    clock.advance(60)
    status, body = health.livez()

    assert (503, False) == (status, body["healthy"])
    assert {"IPv4": True, "IPv6": False} == {
        family: state["healthy"] for family, state in body["status"].items()
    }


def test_the_body_is_that_of_kube_proxy(health, clock):
    """The same fields in the same order, with times as Go writes them."""
    clock.time = clock.time.replace(microsecond=120_000)
    health.sync_finished()
    clock.advance(1)

    now, updated = "2026-01-01T00:00:01.12Z", "2026-01-01T00:00:00.12Z"
    families = {name: {"lastUpdated": updated, "healthy": True} for name in ("IPv4", "IPv6")}
    expected = {
        "lastUpdated": now,
        "currentTime": now,
        "nodeEligible": True,
        "healthy": True,
        "status": families,
    }
    assert list(expected.items()) == list(health.healthz()[1].items())
