# SPDX-License-Identifier: Apache-2.0
"""The sandbox in which the fault suites play: its API server can be asked for faults.

Only node1 has a proxy: what the others would do is nothing that the load meets. It is started by
the first stage, since each suite says how. A start costs seconds of a slow machine, so the world
remembers how the proxy was started, and stages let it run as long as it is the one they want.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator, Sequence

from kubeproxy_bpf.sandbox.cluster import Options, Sandbox
from kubeproxy_bpf.sandbox.layout import Layout

NODE = "node1"
Way = tuple[str, ...]
"""How a proxy was started, beyond the flags of the sandbox: command and flags."""


class World(Sandbox):
    """A sandbox, and how the proxy of node1 was started last."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self.way: Way = ()

    def start_proxy(self, node: str, command: str = "", flags: Sequence[str] = ()) -> None:
        """As any sandbox does, and remember it."""
        super().start_proxy(node, command, flags)
        if node == NODE:
            self.way = (command, *flags)


@contextmanager
def standing(name: str) -> Iterator[World]:
    """A world without a proxy yet."""
    api_flags = ("--admin", "--no-validation", "--bookmark-interval=1")
    with World.up(name, "routed", Options(api_flags=api_flags, proxy=False)) as world:
        assert isinstance(world, World)
        yield world
