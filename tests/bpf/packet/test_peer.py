# SPDX-License-Identifier: Apache-2.0
"""Straight into local pods (--bpf-redirect-peer): netfilter sees neither direction."""

from __future__ import annotations

import socket

import pytest

from kubeproxy_bpf.dataplane.settings import ConfigFlags, Settings

from . import frames
from .conftest import DETECTOR, settings
from .conversation import Conversation
from .frames import Ends
from .hooks import Hooks, Verdict
from .node import LOCAL_POD, MAC, NODE, OUTSIDE, POD, UPLINK
from .world import EXTERNAL_LOCAL, NODE_PORT, PacketWorld

pytestmark = pytest.mark.root

NUMBER = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP}
families = pytest.mark.parametrize("family", (0, 1), ids=("ipv4", "ipv6"))
both = pytest.mark.parametrize("protocol", NUMBER)


@pytest.fixture
def config() -> Settings:
    return settings(DETECTOR | ConfigFlags.REDIRECT_PEER)


@families
@both
@pytest.mark.parametrize("masqueraded", (False, True))
def test_into_a_pod(
    hooks: Hooks, world: PacketWorld, family: int, protocol: str, masqueraded: bool
) -> None:
    """Both directions are translated at ingress and redirected, with and without masquerading."""
    world.service(
        (NODE_PORT, NODE[family], 30080),
        local=[LOCAL_POD[family]],
        protocol=NUMBER[protocol],
        flags=None if masqueraded else EXTERNAL_LOCAL,
    )
    outer = Ends(OUTSIDE[family], 40000, NODE[family], 30080)
    own = NODE[family] if masqueraded else ""
    backend = (LOCAL_POD[family], 8080)
    talk = Conversation(hooks, protocol, outer, backend, UPLINK, POD, own, direct=True)
    for _ in range(2):
        talk.ask()
        talk.answer()
    assert len(world.flows()) == 2


@families
def test_a_pods_own_packets(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """What a pod sends on its own goes on untouched, to any address."""
    data = frames.frame(
        frames.packet("TCP", Ends(LOCAL_POD[family], 8080, OUTSIDE[family], 40000)), MAC[POD]
    )
    assert hooks.ingress(POD, data) == (Verdict.UNSPEC, data)
    assert not world.flows()
