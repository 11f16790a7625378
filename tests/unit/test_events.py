# SPDX-License-Identifier: Apache-2.0
"""Which events there are, about what, and in which words."""

from __future__ import annotations

import pytest

from kubeproxy_bpf.api.decode import Kind
from kubeproxy_bpf.api.objects import ObjectKey
from kubeproxy_bpf.api.recorder import Happening, Regarding
from kubeproxy_bpf.events import Events
from kubeproxy_bpf.model.health import HealthCheck
from kubeproxy_bpf.model.types import Family, ServicePortId
from kubeproxy_bpf.serve.listener import BindFailed

NODE = Regarding("Node", "n1")
WEB = ObjectKey("shop", "web")
TAKEN = OSError(98, "Address already in use")


class Notes:
    """Takes the place of the recorder."""

    def __init__(self) -> None:
        self.taken: list[Happening] = []

    def record(self, happening: Happening) -> None:
        self.taken.append(happening)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def events(notes: Notes) -> Events:
    return Events(notes, "n1", lambda kind, key: f"uid of {kind} {key.namespace}/{key.name}")


def test_a_start_is_told_on_the_node(events: Events, notes: Notes) -> None:
    """By name alone and without words, as kube-proxy does it."""
    events.started("iptables")
    assert [Happening(NODE, "Normal", "Starting", "StartKubeProxy", "")] == notes.taken


def test_who_asks_for_ipvs_is_warned(events: Events, notes: Notes) -> None:
    """The mode is deprecated in kube-proxy, so its configuration should change."""
    events.started("ipvs")
    warning = notes.taken[1]
    assert (NODE, "Warning", "IPVSDeprecation", "StartKubeProxy") == warning[:4]


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        ("health", "FailedToStartProxierHealthcheck"),
        ("metrics", "FailedToStartMetricServer"),
    ],
)
def test_a_server_without_port_is_told_on_the_node(
    events: Events, notes: Notes, server: str, reason: str
) -> None:
    """With address and cause."""
    events.server_failed(BindFailed(server, "0.0.0.0:10256", TAKEN))
    (warning,) = notes.taken
    assert (NODE, "Warning", reason, "StartKubeProxy") == warning[:4]
    assert "0.0.0.0:10256" in warning.note and "already in use" in warning.note


def test_a_health_check_without_port_is_told_on_the_service(events: Events, notes: Notes) -> None:
    """In kube-proxy's words."""
    events.health_check_failed(HealthCheck(WEB, Family.IPV4, 32000, 1), TAKEN)
    (warning,) = notes.taken
    regarding = Regarding("Service", "web", "shop", "uid of Service shop/web")
    assert (regarding, "Warning", "FailedToStartServiceHealthcheck", "Listen") == warning[:4]
    expected = f'node n1 failed to start healthcheck "shop/web" on port 32000: {TAKEN}'
    assert expected == warning.note


@pytest.mark.parametrize(("source", "kind"), [("service", Kind.SERVICE), ("pod", Kind.POD)])
def test_what_finds_no_room_is_told_to_its_owner(
    events: Events, notes: Notes, source: str, kind: Kind
) -> None:
    """A full map is an error that the user sees, not the operator alone."""
    events.port_unfit(ServicePortId(source, "shop", "web", "http", 6, 4), "slots")
    (warning,) = notes.taken
    regarding = Regarding(str(kind), "web", "shop", f"uid of {kind} shop/web")
    assert (regarding, "Warning", "MapFull", f"Program{kind}") == warning[:4]
    note = "node n1 does not serve port http over IPv4: the BPF map slots is full"
    assert note == warning.note
