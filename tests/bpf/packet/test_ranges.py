# SPDX-License-Identifier: Apache-2.0
"""Source ranges of load balancers: who is let in, by the longest prefix and per Service."""

from __future__ import annotations

import pytest

from kubeproxy_bpf.plan.records import FrontendFlags

from . import frames
from .frames import Ends
from .hooks import Hooks, Seen, Verdict
from .node import LOCAL_POD_2, MAC, NODE, POD_2, REMOTE_POD, UPLINK
from .scene import families
from .world import LOAD_BALANCER, PacketWorld

pytestmark = pytest.mark.root

VIP = ("198.51.100.10", "2001:db8::10")
RANGES = (("192.0.2.0/25", "192.0.2.200/32"), ("2001:db8:1::/48", "2001:db8:2::7/128"))
INSIDE = (("192.0.2.0", "192.0.2.127", "192.0.2.200"), ("2001:db8:1:ffff::9", "2001:db8:2::7"))
OUTSIDE = (
    ("192.0.2.128", "192.0.1.255", "192.0.2.201", "10.0.0.1"),
    ("2001:db8:2::8", "2001:db8:0:ffff::1", "2001:db8:3::", "::1:2:3"),
)


def serve(world: PacketWorld, family: int, **backends: list[str]) -> int:
    """A load balancer for some sources."""
    index = world.service(
        (LOAD_BALANCER, VIP[family], 80),
        frontend_flags=FrontendFlags.SOURCE_RANGES,
        **backends,  # type: ignore[arg-type]
    )
    for network in RANGES[family]:
        world.source_range(index, network)
    return index


def knock(hooks: Hooks, family: int, source: str, device: str = UPLINK) -> Seen:
    ends = Ends(source, 40000, VIP[family], 80)
    return hooks.ingress(device, frames.frame(frames.packet("TCP", ends), MAC[device]))


@families
def test_sources(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """Sources in a range get in, others are dropped (F5, F6), in TC and XDP."""
    serve(world, family, remote=[REMOTE_POD[family]])
    for source in INSIDE[family]:
        assert knock(hooks, family, source).verdict is Verdict.REDIRECT, source
    for source in OUTSIDE[family]:
        assert knock(hooks, family, source).verdict is Verdict.DROP, source
    assert world.count("PACKET_SOURCE_RANGES") == len(OUTSIDE[family])
    assert world.count("FLOW_NEW") == len(INSIDE[family])


@families
def test_xdp_filters_too(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """XDP does not let in whom TC would drop."""
    serve(world, family, remote=[REMOTE_POD[family]])
    for source, verdict in ((INSIDE, Verdict.TX), (OUTSIDE, Verdict.DROP)):
        ends = Ends(source[family][0], 40000, VIP[family], 80)
        frame = frames.frame(frames.packet("TCP", ends), MAC[UPLINK])
        assert hooks.xdp(UPLINK, frame).verdict is verdict


@families
def test_ranges_of_others(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """The ranges of one Service let nobody into another one."""
    other = world.index()
    for source in OUTSIDE[family]:
        world.source_range(other, source + ("/128" if family else "/32"))
    serve(world, family, remote=[REMOTE_POD[family]])
    for source in OUTSIDE[family]:
        assert knock(hooks, family, source).verdict is Verdict.DROP


@families
def test_pods_and_the_host(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """Pods and the host are sources as any other (F6), unless a range holds them (F7)."""
    index = serve(world, family, remote=[REMOTE_POD[family]])
    pod, host = LOCAL_POD_2[family], NODE[family]
    ends = Ends(host, 40000, VIP[family], 80)
    frame = frames.frame(frames.packet("TCP", ends), MAC[UPLINK])
    assert knock(hooks, family, pod, POD_2).verdict is Verdict.DROP
    assert hooks.egress(UPLINK, frame).verdict is Verdict.DROP
    for source in (pod, host):
        world.source_range(index, source + ("/128" if family else "/32"))
    assert knock(hooks, family, pod, POD_2).verdict is Verdict.UNSPEC
    assert hooks.egress(UPLINK, frame).verdict is Verdict.REDIRECT


@families
def test_without_endpoints(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """Who may not come in is dropped before anything else is looked at (F10)."""
    serve(world, family)
    assert knock(hooks, family, INSIDE[family][0]).verdict is Verdict.REDIRECT
    assert knock(hooks, family, OUTSIDE[family][0]).verdict is Verdict.DROP
    assert world.counted() == {"PACKET_NO_ENDPOINTS": 1, "PACKET_SOURCE_RANGES": 1}


@families
def test_a_flow_goes_on(hooks: Hooks, world: PacketWorld, family: int) -> None:
    """Ranges are asked for new flows: what is established stays when they shrink."""
    index = serve(world, family, remote=[REMOTE_POD[family]])
    source = INSIDE[family][0]
    assert knock(hooks, family, source).verdict is Verdict.REDIRECT
    for network in RANGES[family]:
        world.source_range(index, network, allow=False)
    assert knock(hooks, family, source).verdict is Verdict.REDIRECT
    ends = Ends(source, 40001, VIP[family], 80)
    frame = frames.frame(frames.packet("TCP", ends), MAC[UPLINK])
    assert hooks.ingress(UPLINK, frame).verdict is Verdict.DROP
