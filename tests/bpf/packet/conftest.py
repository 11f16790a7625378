# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the packet path: a node per session, programs per settings, a world per test."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Iterator, cast

import pytest
import structlog

import kubeproxy_bpf
from kubeproxy_bpf.dataplane.loader import Datapath, load_datapath, load_packets
from kubeproxy_bpf.dataplane.settings import ConfigFlags, Settings, netns_cookie

from .hooks import Hooks
from .node import MAC, Node
from .world import PacketWorld

OBJECT = Path(kubeproxy_bpf.__file__).parent / "obj" / "packets.bpf.o"
SIZES = {
    "kpb_vips": 512,
    "kpb_frontends": 512,
    "kpb_services": 256,
    "kpb_records": 1024,
    "kpb_slots": 8192,
    "kpb_backends": 1024,
    "kpb_affinity": 1024,
    "kpb_sock_flows": 16,
    "kpb_tcp_origin": 16,
    "kpb_flows": 4096,
    "kpb_flow_queue": 4096,
    "kpb_fragments": 256,
    "kpb_devices": 64,
    "kpb_source_ranges": 256,
    "kpb_stats": 256,
    "kpb_traffic": 256,
}
DETECTOR = ConfigFlags.POD_SHORTCUT_IPV4 | ConfigFlags.POD_SHORTCUT_IPV6
SNAT_FIRST, SNAT_COUNT = 20000, 4096
SNAT = range(SNAT_FIRST, SNAT_FIRST + SNAT_COUNT)
MIDDLE = range(2000, 3000)
"""Ports of clients' packets that cannot keep their own."""

TICKS_PER_S = 1e9 / (1 << 27)
TIMEOUTS_S = (0, 60, 60, 3600, 60, 60, 10, 30, 120, 60)
_TIMEOUTS = struct.pack("=16I", *(int(s * TICKS_PER_S) for s in TIMEOUTS_S), *[0] * 6)


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    made = Node()
    yield made
    made.close()


def settings(flags: int = DETECTOR, **changed: int) -> Settings:
    """The settings of the tests; with a detector and without masquerading of everything."""
    made = Settings(
        host_netns=0,
        instance=1,
        flags=flags,
        snat_first=SNAT_FIRST,
        snat_count=SNAT_COUNT,
        middle_first=MIDDLE.start,
        middle_count=len(MIDDLE),
        rejects_per_s=1000,
        timeout=_TIMEOUTS,
    )
    return made._replace(**changed)


def load(node: Node, wanted: Settings, bare_ip: bool = True, **sizes: int) -> Datapath:
    """The programs with these settings, and maps of their own.

    Those for devices without Ethernet header take the verifier as long as all others together.
    """
    sizes = SIZES | sizes
    with node.inside():
        wanted = wanted._replace(host_netns=netns_cookie())
        with structlog.testing.capture_logs():  # thousands of lines of libbpf, kept from the report
            if bare_ip:
                return load_datapath(OBJECT, None, sizes, wanted)
            nobody = cast(Datapath, SimpleNamespace(maps={}))
            return load_packets(OBJECT, None, sizes, wanted, nobody, bare_ip=False)


class Loaded:
    """Gives the programs for settings, loaded once."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._cache: dict[tuple[Settings, bool], Datapath] = {}

    def __call__(self, wanted: Settings, bare_ip: bool = True) -> Datapath:
        for key in ((wanted, True), (wanted, bare_ip)):
            if key in self._cache:
                return self._cache[key]
        self._cache[wanted, bare_ip] = load(self._node, wanted, bare_ip)
        return self._cache[wanted, bare_ip]

    def close(self) -> None:
        for datapath in self._cache.values():
            datapath.close()


@pytest.fixture(scope="session")
def loaded(node: Node) -> Iterator[Loaded]:
    made = Loaded(node)
    yield made
    made.close()


@pytest.fixture
def config() -> Settings:
    """Modules and tests that need other settings override this."""
    return settings()


@pytest.fixture
def datapath(loaded: Loaded, config: Settings) -> Datapath:
    return loaded(config)


@pytest.fixture
def world(datapath: Datapath, node: Node) -> PacketWorld:
    made = PacketWorld(datapath, node.ifindex)
    made.prepare()
    return made


@pytest.fixture
def hooks(datapath: Datapath, node: Node, world: PacketWorld) -> Hooks:
    return Hooks(node, datapath.programs)


@pytest.fixture(scope="session", autouse=True)
def receive_queues(node: Node, loaded: Loaded) -> None:
    """veth registers receive queues, which test-runs of XDP ask for, with its first program."""
    program = loaded(settings()).programs["kpb_xdp"].info().id
    with node.inside():
        for device in MAC:
            command = f"bpftool net attach xdpdrv id {program} dev {device}"
            subprocess.run(command.split(), check=True)
