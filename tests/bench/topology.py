# SPDX-License-Identifier: Apache-2.0
"""Three namespaces in a row, client - node - backend, once per variant of the benchmark.

Each variant has its own, since a single nat rule makes conntrack follow every packet of its
namespace, also those of the direct path beside it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path
from typing import Sequence

CLIENT, BACKEND = "192.0.2.2", "198.51.100.2"
CLIENT6, BACKEND6 = "fd00:1::2", "fd00:2::2"
PORT = 8080
_CLONE_NEWNET = 0x40000000


class Row:
    """The three namespaces of one variant, and the backend server in the last."""

    def __init__(self, name: str, load: Path) -> None:
        self.name = name
        self._load = load
        self._server: subprocess.Popen[str] | None = None

    def __enter__(self) -> Row:
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            if self._server.stdout:
                self._server.stdout.close()
        for part in ("c", "n", "b"):
            subprocess.run(["ip", "netns", "del", self._ns(part)], stderr=subprocess.DEVNULL)

    def _ns(self, part: str) -> str:
        return f"kpbbench-{self.name}-{part}"

    def _build(self) -> None:
        c, n, b = (self._ns(part) for part in "cnb")
        for name in (c, n, b):
            subprocess.run(["ip", "netns", "add", name], check=True)
        lines = [
            f"link add c0 netns {c} type veth peer name n0 netns {n}",
            f"link add b0 netns {b} type veth peer name n1 netns {n}",
        ]
        subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)
        self._ip(c, "192.0.2.2/24 fd00:1::2/64", "c0", "192.0.2.1 fd00:1::1")
        self._ip(n, "192.0.2.1/24 fd00:1::1/64", "n0", "")
        self._ip(n, "198.51.100.1/24 fd00:2::1/64", "n1", "")
        self._ip(b, "198.51.100.2/24 fd00:2::2/64", "b0", "198.51.100.1 fd00:2::1")
        self.run("n", ["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
        for part in "cnb":
            self.run(part, ["sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65000"])
        self._server = subprocess.Popen(
            [str(self._load), "serve", str(PORT)],
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=self.entering("b"),
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n"

    @staticmethod
    def _ip(namespace: str, addresses: str, device: str, gateways: str) -> None:
        lines = [f"link set {device} up", "link set lo up"]
        for address in addresses.split():
            nodad = " nodad" if ":" in address else ""
            lines.append(f"addr add {address} dev {device}{nodad}")
        lines += [f"route add default via {gateway}" for gateway in gateways.split()]
        subprocess.run(
            ["ip", "-n", namespace, "-batch", "-"], input="\n".join(lines), text=True, check=True
        )

    def entering(self, part: str, cgroup: Path | None = None):  # type: ignore[no-untyped-def]
        """A preexec function that moves the child into a namespace, and into a cgroup before."""
        path = f"/run/netns/{self._ns(part)}"

        def enter() -> None:
            if cgroup is not None:
                (cgroup / "cgroup.procs").write_text(str(os.getpid()))
            fd = os.open(path, os.O_RDONLY)
            if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), path)

        return enter

    def run(
        self, part: str, argv: Sequence[str], *, cgroup: Path | None = None, stdin: str = ""
    ) -> str:
        """Run a command in one of the namespaces and return what it prints."""
        done = subprocess.run(
            list(argv),
            input=stdin,
            capture_output=True,
            text=True,
            preexec_fn=self.entering(part, cgroup),
        )
        if done.returncode:
            raise RuntimeError(f"{argv[0]} in {self.name}: {done.stderr[-500:]}")
        return done.stdout
