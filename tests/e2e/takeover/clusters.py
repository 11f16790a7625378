# SPDX-License-Identifier: Apache-2.0
"""What nodes of a sandbox have of a kube-proxy, and what a proxy said about it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from kubeproxy_bpf.sandbox.layout import BACKEND_PORT
from kubeproxy_bpf.sandbox.process import Place
from tests.e2e.packets.netfilter import inside
from tests.e2e.packets.objects import PORT, addresses_of
from tests.e2e.packets.table import ALL
from tests.e2e.packets.world import World
from tests.e2e.takeover import kube_proxy
from tests.e2e.takeover.kube_proxy import Served

HEALTH_PORT = 10256
PROGRAM = str(Path(sys.executable).with_name("kube-proxy"))


def load(world: World, node: str, family: int, mode: str) -> None:
    given = addresses_of("all")
    served = Served(
        "default/all",
        world.cluster_ips["all"][family],
        PORT,
        given.node_port,
        (given.external[family], given.balancer[family]),
        tuple((world.layout.addresses(name)[family], BACKEND_PORT) for name in ALL),
    )
    services = [served, *kube_proxy.many(5, bool(family))]
    pods = world.layout.pod_network[family]
    if mode == "nftables":
        inside(
            world.layout, node, ["nft", "-f", "-"], kube_proxy.nftables(services, pods, family == 1)
        )
        return
    argv = [f"{tool(family, mode)}-restore", "--noflush"]
    inside(world.layout, node, argv, kube_proxy.iptables(services, pods, family == 1))


def tool(family: int, mode: str) -> str:
    command = ("iptables", "ip6tables")[family]
    return command + mode.removeprefix("iptables")


def close(world: World, node: str, family: int, mode: str, forward: str) -> None:
    """Give FORWARD its policy; only what nodes and pods send each other is accepted there."""
    if forward == "ACCEPT":
        return
    pods = world.layout.pod_network[family]
    lines = ["*filter", f":FORWARD {forward}", f"-A FORWARD -s {pods} -d {pods} -j ACCEPT"]
    # Bridged frames pass FORWARD too where br_netfilter is loaded: neighbours have to be found.
    lines += ["-A FORWARD -p ipv6-icmp -j ACCEPT"] if family else []
    for each in world.layout.nodes:
        lines.append(f"-A FORWARD -s {each.addresses[family]} -d {pods} -j ACCEPT")
        lines.append(f"-A FORWARD -s {pods} -d {each.addresses[family]} -j ACCEPT")
    argv = [f"{tool(family, mode)}-restore", "--noflush"]
    inside(world.layout, node, argv, "\n".join((*lines, "COMMIT", "")))


def logged(world: World, node: str, event: str) -> list[dict[str, Any]]:
    """What a proxy said of an event so far."""
    path = log_of(world, node)
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    found = (json.loads(line) for line in lines if line.startswith("{"))
    return [each for each in found if each.get("event") == event or each.get("msg") == event]


def rules(world: World, node: str) -> str:
    """All that netfilter has on a node, without the times and counters that differ each time."""
    programs = [["nft", "list", "tables"]]
    for family in ("iptables", "ip6tables"):
        programs += [[f"{family}-{build}-save"] for build in ("nft", "legacy")]
    text = "".join(inside(world.layout, node, argv) for argv in programs)
    return re.sub(r"^#.*\n| \[\d+:\d+\]$", "", text, flags=re.MULTILINE)


def clean(world: World, node: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """The command, as an operator runs it on a node whose proxy has stopped."""
    argv = [PROGRAM, "--cleanup", f"--bpf-pin-path={world.sandbox.pin_path(node)}"]
    return world.sandbox.exec(node, [*argv, "--logging-format=json", *flags])


def make_empty(world: World, node: str, *flags: str) -> None:
    """Neither proxy nor programs, rules or words in the log are left on a node."""
    process = world.sandbox._started.pop(f"kube-proxy-{node}", None)
    if process is not None:
        process.kill()
        process.wait()
        log_of(world, node).write_text("")
    done = clean(world, node, *flags)
    assert done.returncode == 0, done.stderr
    drop_rules(world, node)


def drop_rules(world: World, node: str) -> None:
    """All of netfilter, whoever made it."""
    inside(world.layout, node, ["nft", "flush", "ruleset"])
    tables = "".join(f"*{table}\nCOMMIT\n" for table in ("filter", "nat", "mangle"))
    for family in ("iptables", "ip6tables"):
        inside(world.layout, node, [f"{family}-legacy-restore"], tables)


def log_of(world: World, node: str) -> Path:
    return world.sandbox.directory / "log" / f"kube-proxy-{node}.log"


@contextmanager
def listening(spot: Place) -> Iterator[None]:
    """A process on a node that listens where a kube-proxy does."""
    script = "import socket; s = socket.create_server(('', %d)); print(flush=True); s.accept()"
    argv = [sys.executable, "-c", script % HEALTH_PORT]
    with subprocess.Popen(spot.launch(argv), stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.kill()
