# SPDX-License-Identifier: Apache-2.0
"""Three namespaces in a row, client - node - backend, once per variant of the benchmark.

Each variant has its own, since a single nat rule makes conntrack follow every packet of its
namespace, also those of the direct path beside it. A row may have a pod on its node. Neighbours
are known from the start, so that no figure holds the search for one.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Sequence

CLIENT, BACKEND = "192.0.2.2", "198.51.100.2"
CLIENT6, BACKEND6 = "fd00:1::2", "fd00:2::2"
POD = "10.244.0.2"
NODE = "192.0.2.1"
BACKENDS = tuple(f"198.51.100.{host}" for host in range(2, 18))
"""All at the same device; BACKEND is the first."""
CLIENT_NETWORK = "10.128.0.0/9"
"""Behind the client: where the frames of the generator come from."""
PORT = 8080
MAC = {
    device: bytes((2, 0, 0, 0, 0, number))
    for number, device in enumerate(("c0", "n0", "n1", "b0", "v0", "p0"))
}
_CLONE_NEWNET = 0x40000000


class Row:
    """The namespaces of one variant, and the servers of the backend and of the pod."""

    def __init__(self, name: str, load: Path, *, pod: bool = False) -> None:
        self.name = name
        self.node_devices = {"n0": (NODE, MAC["n0"]), "n1": ("198.51.100.1", MAC["n1"])}
        """Address and MAC by device of the node."""
        if pod:
            self.node_devices["v0"] = ("10.244.0.1", MAC["v0"])
        self._parts = "cnbp" if pod else "cnb"
        self._load = load
        self._servers: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Row:
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.kill()
            server.wait()
            if server.stdout:
                server.stdout.close()
        for part in self._parts:
            subprocess.run(["ip", "netns", "del", self._ns(part)], stderr=subprocess.DEVNULL)

    def _ns(self, part: str) -> str:
        return f"kpbbench-{self.name}-{part}"

    def _build(self) -> None:
        for part in self._parts:
            subprocess.run(["ip", "netns", "add", self._ns(part)], check=True)
        self._link("c", "c0", "n0")
        self._link("b", "b0", "n1")
        self._ip("c", "192.0.2.2/24 fd00:1::2/64", "c0", "192.0.2.1 fd00:1::1")
        self._ip("n", "192.0.2.1/24 fd00:1::1/64", "n0", "")
        self._ip("n", "198.51.100.1/24 fd00:2::1/64", "n1", "")
        self._ip("b", "198.51.100.2/24 fd00:2::2/64", "b0", "198.51.100.1 fd00:2::1")
        self._neighbours("c", "c0", "n0", "192.0.2.1", "fd00:1::1")
        self._neighbours("n", "n0", "c0", "192.0.2.2", "fd00:1::2")
        self._neighbours("n", "n1", "b0", *BACKENDS, "fd00:2::2")
        self._neighbours("b", "b0", "n1", "198.51.100.1", "fd00:2::1")
        self._batch("n", [f"route add {CLIENT_NETWORK} via 192.0.2.2"])
        if "p" in self._parts:
            self._link("p", "p0", "v0")
            self._ip("n", "10.244.0.1/24", "v0", "")
            self._ip("p", f"{POD}/24", "p0", "10.244.0.1")
            self._neighbours("n", "v0", "p0", POD)
            self._neighbours("p", "p0", "v0", "10.244.0.1")
        self.run("n", ["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
        for part in self._parts:
            self.run(part, ["sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65000"])
        for part in self._parts[2:]:
            self._serve(part)

    def _serve(self, part: str) -> None:
        server = subprocess.Popen(
            [str(self._load), "serve", str(PORT)],
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=self.entering(part),
        )
        self._servers.append(server)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"

    def _link(self, part: str, device: str, at_node: str) -> None:
        line = (
            f"link add {device} netns {self._ns(part)} address {MAC[device].hex(':')} type veth "
            f"peer name {at_node} netns {self._ns('n')} address {MAC[at_node].hex(':')}"
        )
        subprocess.run(["ip", *line.split()], check=True)

    def _neighbours(self, part: str, device: str, peer: str, *addresses: str) -> None:
        lines = [f"neigh add {a} lladdr {MAC[peer].hex(':')} dev {device}" for a in addresses]
        self._batch(part, lines)

    def _ip(self, part: str, addresses: str, device: str, gateways: str) -> None:
        lines = [f"link set {device} up", "link set lo up"]
        for address in addresses.split():
            nodad = " nodad" if ":" in address else ""
            lines.append(f"addr add {address} dev {device}{nodad}")
        self._batch(part, lines + [f"route add default via {g}" for g in gateways.split()])

    def _batch(self, part: str, lines: list[str]) -> None:
        argv = ["nsenter", f"--net=/run/netns/{self._ns(part)}", "ip", "-batch", "-"]
        subprocess.run(argv, input="\n".join(lines), text=True, check=True)

    @contextmanager
    def inside(self, part: str) -> Iterator[None]:
        """Move the calling thread into one of the namespaces for a while."""
        outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            self.entering(part)()
            yield
        finally:
            _setns(outside)
            os.close(outside)

    def offload(self, part: str, device: str, *features: str) -> None:
        """Switch features of a device with ethtool(8): "gro", "on", ..."""
        self.run(part, ["ethtool", "-K", device, *features])

    def entering(self, part: str, cgroup: Path | None = None):  # type: ignore[no-untyped-def]
        """A preexec function that moves the child into a namespace, and into a cgroup before."""
        path = f"/run/netns/{self._ns(part)}"

        def enter() -> None:
            if cgroup is not None:
                (cgroup / "cgroup.procs").write_text(str(os.getpid()))
            fd = os.open(path, os.O_RDONLY)
            _setns(fd)
            os.close(fd)

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


def _setns(fd: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
