# SPDX-License-Identifier: Apache-2.0
"""``kube-proxy --cleanup`` on a node: nothing of the instance is left, all others go on."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Iterable, Iterator

import pytest
import structlog

from kubeproxy_bpf import cleanup
from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.dataplane.devicelink import TCX
from kubeproxy_bpf.errors import RulesRefused
from kubeproxy_bpf.libbpf import (
    AttachType,
    BpfMap,
    Program,
    device_chain,
    prog_query,
    program_ids,
    xdp_programs,
)
from kubeproxy_bpf.sandbox import cgroup, namespace
from tests.e2e.flows.places import socket_in
from tests.e2e.packets.asking import Target, again, made
from tests.e2e.packets.held import Open, go_on
from tests.e2e.packets.netfilter import inside
from tests.e2e.packets.table import ALL, Place, Via
from tests.e2e.packets.world import MASQUERADE, World, standing, wait
from tests.e2e.takeover import clusters
from tests.e2e.takeover.clusters import listening, load, log_of, make_empty, rules

pytestmark = [pytest.mark.root, pytest.mark.slow]

RESERVED = "/proc/sys/net/ipv4/ip_local_reserved_ports"
STATE = "--bpf-state-path="
PORTS = "--bpf-snat-ports=40000-40999"
HELD = 10


@pytest.fixture(scope="module")
def sites() -> Iterator[World]:
    """Two nodes; a proxy that finds rules leaves them to the cleanup."""
    name = f"kpbt-t{os.getpid()}-clean"
    with TemporaryDirectory(prefix=name) as state:
        flags = [MASQUERADE, PORTS, STATE + state, "--bpf-takeover=off"]
        with standing(name, "routed", flags, proxies=False) as world:
            yield world


@pytest.fixture
def world(sites: World, request: pytest.FixtureRequest) -> World:
    """The same with a proxy on each node, on the first one with the flags of the test."""
    flags: tuple[str, ...] = getattr(request, "param", ())
    missing = [(n, f) for n, f in (("node1", flags), ("node2", ())) if not runs(sites, n, f)]
    for node, _ in missing:
        make_empty(sites, node, f"{STATE}{state_of(sites)}")
    for node, more in missing:
        sites.sandbox.start_proxy(node, flags=(*sites.flags, *more))
    sites.await_proxies()
    return sites


def runs(world: World, node: str, flags: Iterable[str]) -> bool:
    """Whether a proxy with just these flags more runs on a node."""
    process = world.sandbox._started.get(f"kube-proxy-{node}")
    wanted = [*world.flags, *flags]
    return (
        process is not None
        and process.poll() is None
        and list(process.args)[-len(wanted) :] == wanted
    )


def state_of(world: World) -> Path:
    """Where the proxies of both nodes keep their notes."""
    (path,) = (each.removeprefix(STATE) for each in world.flags if each.startswith(STATE))
    return Path(path)


def config_of(world: World, node: str) -> Config:
    pins = str(world.sandbox.pin_path(node))
    return Config(hostname=node, pin_path=pins, state_path=str(state_of(world)))


def clean(world: World, node: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """The command, with the notes that the node's proxy kept."""
    return clusters.clean(world, node, f"{STATE}{state_of(world)}", *flags)


def events(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [json.loads(line)["event"] for line in done.stderr.splitlines()]


def problems(done: subprocess.CompletedProcess[str]) -> list[dict[str, str]]:
    """What a cleanup could not take away."""
    lines = map(json.loads, done.stderr.splitlines())
    return [each for each in lines if each["event"] == "cleanup_left"]


def attached(world: World, node: str) -> set[int]:
    """Ids of what runs at a node's control group and at its devices."""
    group = os.open(cgroup.mount_point() / world.layout.node_cgroup(node), os.O_RDONLY)
    try:
        found = {n for hook in _CGROUP_HOOKS for n in prog_query(group, hook)}
    finally:
        os.close(group)
    return found | namespace.call(world.layout.netns(node), _at_devices)


_CGROUP_HOOKS = [each for each in AttachType if each.name.startswith(("CGROUP_INET", "CGROUP_UDP"))]


def _at_devices() -> set[int]:
    found: set[int] = set()
    for ifindex, _ in socket.if_nameindex():
        found.update(xdp_programs(ifindex))
        for hook in TCX.values():
            found.update(entry.prog_id for entry in device_chain(ifindex, hook))
    return found - {0}


def open_maps(programs: set[int]) -> set[int]:
    """The ids of all maps of some programs."""
    found: set[int] = set()
    for number in programs:
        with Program.from_id(number) as program:
            found.update(program.info().map_ids)
    return found


def map_ids() -> set[int]:
    """All maps of the kernel, as bpftool sees them."""
    done = subprocess.run(["bpftool", "-j", "map"], capture_output=True, check=True)
    return {each["id"] for each in json.loads(done.stdout)}


def held(world: World, stack: ExitStack) -> list[Open]:
    """Connections of a pod through the hooks of its node, in both families."""
    opened = []
    for family in (0, 1):
        target = world.target("TCP", "all", Via.CLUSTER_IP, family)

        for _ in range(HELD):
            sock = socket_in(world.sandbox, "shell-1", partial(connected, target))
            sock.settimeout(3.0)
            opened.append(Open(stack.enter_context(sock), target, again(sock)))
    return opened


def connected(target: Target) -> socket.socket:
    sock = made(target)
    sock.connect((target.address, target.port))
    return sock


@pytest.mark.parametrize(
    "world",
    [(f"--bpf-pins={pins}", "--bpf-xdp=generic") for pins in ("on", "off")],
    ids=["on", "off"],
    indirect=True,
)
def test_nothing_of_one_node_is_left_and_the_other_serves(world: World) -> None:
    """Programs, maps, pins and reserved ports go; connections of pods and the other node do not."""
    with ExitStack() as stack:
        opened = held(world, stack)
        before = inside(world.layout, "node1", ["cat", RESERVED])
        assert "40000-40999" in before
        mine, other = attached(world, "node1"), attached(world, "node2")
        maps = open_maps(mine)
        world.end_proxy("node1", signal.SIGTERM)
        assert attached(world, "node1") == mine
        done = clean(world, "node1")
        assert done.returncode == 0, done.stderr
        assert events(done)[-1] == "cleanup_finished"
        assert attached(world, "node1") == set()
        assert not mine & set(program_ids())
        assert not maps & map_ids()
        assert not world.sandbox.pin_path("node1").exists()
        assert "40000" not in inside(world.layout, "node1", ["cat", RESERVED])
        assert len(list(state_of(world).iterdir())) == 1
        assert "40000-40999" in inside(world.layout, "node2", ["cat", RESERVED])
        assert attached(world, "node2") == other
        go_on(opened)
        target = world.target("TCP", "all", Via.NODE2, 0)
        assert world.ask(Place.CLIENT, target).name in ALL
        assert clean(world, "node1").returncode == 0
        world.start_proxy("node1")
        go_on(opened)
        assert (
            world.ask(Place.HOOKED_POD, world.target("TCP", "all", Via.CLUSTER_IP, 1)).name in ALL
        )


@pytest.mark.parametrize("place", ["node1", "node2"])
def test_a_proxy_that_runs_is_left_alone(place: str, world: World) -> None:
    """Its locks are held, one of them in all network namespaces: nothing changes, it serves on."""
    mine = attached(world, "node1")
    pins = sorted(world.sandbox.pin_path("node1").rglob("*"))
    config = config_of(world, "node1")
    code = world.sandbox.run_in(place, partial(cleanup.run, config, writer_ends_s=0.1))
    assert code == 1
    assert sorted(world.sandbox.pin_path("node1").rglob("*")) == pins
    assert attached(world, "node1") == mine
    assert world.ask(Place.CLIENT, world.target("TCP", "all", Via.NODE1, 0)).name in ALL


def test_what_stays_is_named_and_the_rest_goes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map that a process holds, rules that cannot be read: exit code 1, all else is done."""

    def refused() -> list[str]:
        raise RulesRefused("iptables-restore", "no such luck")

    mine = attached(world, "node1")
    number = min(open_maps(mine))
    world.end_proxy("node1", signal.SIGTERM)
    monkeypatch.setattr(cleanup, "_KERNEL_FREES_S", 1.0)
    monkeypatch.setattr(cleanup, "remove_forward_accept", refused)
    config = config_of(world, "node1")

    def told() -> tuple[int, list[str]]:
        with structlog.testing.capture_logs() as logs:
            code = cleanup.run(config)
        return code, [each["what"] for each in logs if each["event"] == "cleanup_left"]

    with BpfMap.from_id(number):
        code, left = world.sandbox.run_in("node1", told)
    assert code == 1
    assert [each.split(" is held")[0] for each in left] == [
        f"map {number}",
        "rules of FORWARD: iptables-restore: no such luck",
    ]
    assert attached(world, "node1") == set()
    assert "40000" not in inside(world.layout, "node1", ["cat", RESERVED])
    monkeypatch.undo()
    assert world.sandbox.run_in("node1", told) == (0, [])


def test_rules_of_a_dead_kube_proxy_go_too(world: World) -> None:
    """All of it, with what the takeover put in its place; the rules of others stay."""
    inside(world.layout, "node1", ["iptables", "-N", "KUBE-FIREWALL"])
    for mode in ("iptables-nft", "iptables-legacy", "nftables"):
        for family in (0, 1):
            load(world, "node1", family, mode)
    world.end_proxy("node1", signal.SIGTERM)
    assert clean(world, "node1").returncode == 0
    left = rules(world, "node1").replace("KUBE-FIREWALL", "")
    assert "KUBE-" not in left
    assert "kube-proxy" not in left
    assert ":KUBE-FIREWALL" in rules(world, "node1")


def test_back_to_a_kube_proxy_that_runs_already(world: World) -> None:
    """Rolled back first, cleaned then: its rules stay, and serve whom the programs served."""
    with ExitStack() as stack:
        for node in world.layout.node_names:
            world.end_proxy(node, signal.SIGTERM)
            for family in (0, 1):
                load(world, node, family, "iptables-nft")
            stack.enter_context(listening(world.spot(node)))
        opened = held(world, stack)
        before = rules(world, "node1")
        for node in world.layout.node_names:
            done = clean(world, node)
            assert done.returncode == 0, done.stderr
            assert "kube_proxy_alive" in events(done)
            assert attached(world, node) == set()
        assert rules(world, "node1").count("KUBE-SEP-") == before.count("KUBE-SEP-") > 0
        go_on(opened)
        for via in (Via.NODE1, Via.NODE2, Via.EXTERNAL_IP, Via.LOAD_BALANCER):
            for family in (0, 1):
                assert world.ask(Place.CLIENT, world.target("TCP", "all", via, family)).name in ALL
        for family in (0, 1):
            target = world.target("TCP", "all", Via.CLUSTER_IP, family)
            assert world.ask(Place.HOOKED_POD, target).name in ALL


def test_programs_of_another_pin_path_are_named(world: World) -> None:
    """Whoever starts or cleans up with a wrong pin path is told what else is attached."""
    mine = attached(world, "node1")
    world.end_proxy("node1", signal.SIGTERM)
    wrong = f"--bpf-pin-path={world.sandbox.pin_path('wrong')}"
    group = f"--bpf-cgroup-root={cgroup.mount_point() / world.layout.node_cgroup('node1')}"
    done = clean(world, "node1", wrong, group)
    assert done.returncode == 1
    told = " ".join(each["what"] for each in problems(done))
    assert "programs of another instance are attached" in told
    assert mine <= set(map(int, re.findall(r"\b\d+\b", told)))
    assert attached(world, "node1") == mine

    begun = len(log_of(world, "node1").read_text())
    world.sandbox.start_proxy("node1", "", (*world.flags, wrong))
    wait(lambda: "other_instance_attached" in log_of(world, "node1").read_text()[begun:], True)
    assert "other_instance_attached" not in log_of(world, "node2").read_text()
    world.sandbox.wait_ready()
    world.end_proxy("node1", signal.SIGTERM)
    assert clean(world, "node1", wrong, group).returncode == 1
    assert attached(world, "node1") == mine
    assert clean(world, "node1", group).returncode == 0
    assert attached(world, "node1") == set()


def test_proxies_of_two_network_namespaces_do_not_share_pins(world: World) -> None:
    """Who comes second waits until the first one ends, and writes nothing before.

    The last test: what is left belongs to both nodes, and goes with the sandbox.
    """
    mine = attached(world, "node1")
    world.end_proxy("node2", signal.SIGTERM)
    shared = f"--bpf-pin-path={world.sandbox.pin_path('node1')}"
    log = log_of(world, "node2")
    begun = len(log.read_text())
    world.sandbox.start_proxy("node2", "", (*world.flags, shared))
    wait(lambda: "writer_awaited" in log.read_text()[begun:], True)
    assert "datapath_loaded" not in log.read_text()[begun:]
    assert attached(world, "node1") == mine
    world.end_proxy("node1", signal.SIGKILL)
    wait(lambda: "datapath_loaded" in log.read_text()[begun:], True)
