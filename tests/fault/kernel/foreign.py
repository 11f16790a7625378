# SPDX-License-Identifier: Apache-2.0
"""Programs of somebody else at the hooks of node1: before ours, after ours, and instead of ours."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from socket import if_nametoindex

from kubeproxy_bpf.libbpf import AttachFlag, AttachType, BpfObject, Link
from kubeproxy_bpf.sandbox import namespace
from kubeproxy_bpf.sandbox.cluster import Sandbox
from tests.compiling import compile_bpf

SOURCE = Path(__file__).with_name("foreign.bpf.c")
XDP_GENERIC = 1 << 1


def compile_foreign(target: Path) -> Path:
    return compile_bpf(SOURCE, target)


class Foreign:
    """Another project on the node; leaving the block ends all that it attached."""

    def __init__(self, sandbox: Sandbox, image: Path) -> None:
        self._sandbox = sandbox
        self._image = image
        self._ends = ExitStack()

    def __enter__(self) -> Foreign:
        self._object = self._ends.enter_context(BpfObject.open(self._image))
        self._object.load()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def at_device(self, program: str, device: str, hook: AttachType, flags: int = 0) -> None:
        """Attach at a device of node1; the kernel looks for it where the thread is."""
        fd = self._object.programs[program].fd

        def attach() -> Link:
            return Link.create(fd, if_nametoindex(device), hook, flags)

        netns = self._sandbox.layout.netns("node1")
        self._ends.callback(namespace.call(netns, attach).close)

    def around(self, device: str) -> None:
        """Before all others and behind all others at ingress of a device."""
        self.at_device("f_first", device, AttachType.TCX_INGRESS, AttachFlag.BEFORE)
        self.at_device("f_last", device, AttachType.TCX_INGRESS, AttachFlag.AFTER)

    def at_cgroup(self, cgroup: Path) -> None:
        fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            link = self._object.programs["f_connect"].attach_cgroup(fd)
        finally:
            os.close(fd)
        self._ends.callback(link.close)

    def seen(self) -> list[int]:
        """What passed: first, last, XDP, connect."""
        with self._object.maps["f_seen"].map as counts:
            raw = [counts.lookup(number.to_bytes(4, "little")) for number in range(4)]
        return [int.from_bytes(each or b"", "little") for each in raw]
