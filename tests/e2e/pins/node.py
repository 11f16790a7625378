# SPDX-License-Identifier: Apache-2.0
"""A node whose proxy runs in a container, and what the kernel has of that proxy."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Callable, NamedTuple

from kubeproxy_bpf.config.load import load
from kubeproxy_bpf.dataplane import inventory
from kubeproxy_bpf.dataplane.attachments import LinkTable
from kubeproxy_bpf.dataplane.owned import Owned, Owner
from kubeproxy_bpf.dataplane.pinning import drop_pins
from kubeproxy_bpf.dataplane.settings import netns_cookie
from kubeproxy_bpf.libbpf import BpfMap, LibbpfError
from kubeproxy_bpf.program_settings import owner_of
from kubeproxy_bpf.sandbox.cluster import Sandbox
from tests.e2e.packets.world import World

NODE = "node1"
PINNED = "pinned"
PINLESS = "pinless"
_CONTAINED = Path(__file__).with_name("contained.py")
_PROXY = Path(sys.executable).with_name("kube-proxy")


class Found(NamedTuple):
    """What the kernel has of one instance."""

    programs: frozenset[int]
    maps: frozenset[int]
    """Without the sections of variables, which belong to one load alone."""
    links: frozenset[int]
    unlinked: int
    """Attachments without links."""
    dead: int
    """Links that hold a program but are attached nowhere: pins that were out of sight keep them."""


NOTHING = Found(frozenset(), frozenset(), frozenset(), 0, 0)


class ContainedNode:
    """One node of a world; its proxy sees the node's bpffs if it is PINNED, and none otherwise."""

    def __init__(self, world: World, name: str = NODE) -> None:
        self.world = world
        self.name = name
        self.sandbox: Sandbox = world.sandbox
        cookie = self.sandbox.run_in(name, netns_cookie)
        config = load([f"--bpf-pin-path={self.pins}", "--hostname-override=any"])
        self.owner: Owner = owner_of(config, cookie)

    @property
    def pins(self) -> Path:
        return self.sandbox.pin_path(self.name)

    def start(self, mode: str, *flags: str) -> None:
        """Start the proxy in its container, and wait until it is ready."""
        self.launch(mode, *flags)
        self.sandbox.wait_ready()

    def launch(self, mode: str, *flags: str) -> None:
        """Start the proxy in its container."""
        hidden = ["--no-bpffs"] if mode == PINLESS else []
        argv = [sys.executable, "-I", "-S", str(_CONTAINED), *hidden, str(_PROXY)]
        self.sandbox.start_proxy(self.name, shlex.join(argv), (*self.world.flags, *flags))

    def end(self, number: int) -> None:
        """End the container; afterwards there is no process of ours on the node."""
        process = self.sandbox._started.pop(f"kube-proxy-{self.name}")
        process.send_signal(number)
        process.wait(timeout=30)
        until(lambda: not self.processes(), lambda: self.processes())

    def end_if_running(self) -> None:
        if f"kube-proxy-{self.name}" in self.sandbox._started:
            self.end(signal.SIGKILL)

    def processes(self) -> list[int]:
        """The proxies among the processes of the node."""
        found = []
        for pid in self.sandbox.proxy_pids(self.name):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:  # just ended
                continue
            if b"kube-proxy" in command:
                found.append(pid)
        return found

    def found(self) -> Found:
        """Ask the kernel, in the node's network namespace."""
        return self.sandbox.run_in(self.name, partial(_found, self.owner))

    def log(self) -> str:
        return (self.sandbox.directory / "log" / f"kube-proxy-{self.name}.log").read_text()

    def drop_pins(self) -> None:
        """Unpin what ``remove`` has detached."""
        drop_pins(self.pins)
        assert not self.pins.exists(), sorted(self.pins.rglob("*"))

    def remove(self) -> int:
        """End everything of the instance, as a cleanup does; how many programs are left."""
        return self.sandbox.run_in(self.name, partial(_remove, self.owner))


def _found(owner: Owner) -> Found:
    owned = Owned(owner)
    attached = inventory.attachments(owned, inventory.all_cgroups())
    return Found(
        frozenset(program.id for program in inventory.left(owned)),
        frozenset(number for number in inventory.maps_left(owned) if _is_shared(number)),
        frozenset(each.link_id for each in attached if each.link_id),
        sum(not each.link_id for each in attached),
        len(LinkTable(owned).dead),
    )


def _is_shared(number: int) -> bool:
    with BpfMap.from_id(number) as each:
        return "." not in each.name


def still_there(found: Found) -> set[int]:
    """The maps of an instance that the kernel still has."""
    there = set()
    for number in found.maps:
        try:
            BpfMap.from_id(number).close()
        except LibbpfError:
            continue
        there.add(number)
    return there


def _remove(owner: Owner) -> int:
    owned = Owned(owner)
    assert inventory.end_all(owned) == []
    return len(inventory.left(owned))


def until(condition: Callable[[], bool], seen: Callable[[], object]) -> None:
    """Wait for a condition; ``seen`` tells what is instead."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, seen()
        time.sleep(0.05)
