# SPDX-License-Identifier: Apache-2.0
"""Where the tests of the socket hooks happen: a node, a pod, a hooked cgroup, backends.

The node and the pod are network namespaces joined by a veth pair; backends are addresses on the
node's loopback device and answer with their own address. ``Places.run`` runs a function in a child
process that joins the hooked cgroup and a namespace before it makes any socket.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import selectors
import signal
import socket
import subprocess
import traceback
from pathlib import Path
from typing import Any, Callable

from kubeproxy_bpf.dataplane.mounts import find_cgroup_root
from tests.bpf.world import PORT

LIMIT_S = 30
CLONE_NEWNET = 0x40000000
BACKENDS = [f"10.99.1.{n}" for n in range(1, 9)] + [f"fd99::{n}" for n in range(1, 9)]
NODE_ADDRESSES = ("10.99.0.1", "fd98::1")

_libc = ctypes.CDLL(None, use_errno=True)


def enter_netns(path: Path) -> None:
    """Move the calling thread to a network namespace."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, CLONE_NEWNET) < 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(fd)


class Places:
    """Everything that is made on the machine, under one unique name, and removed again."""

    def __init__(self) -> None:
        self.name = f"kpbt-sock-{os.getpid()}"
        self.cgroup = find_cgroup_root() / self.name
        self.node = self.pod = Path()
        self._processes: list[int] = []

    def build(self) -> None:
        self.cgroup.mkdir()
        self.node, self.pod = self._namespace(), self._namespace()
        ip(self.node, *"link add kpbt-v type veth peer name eth0".split())
        ip(self.node, "link", "set", "eth0", "netns", self.pod.parts[2])
        self._configure(self.node, "kpbt-v", NODE_ADDRESSES)
        self._configure(self.pod, "eth0", ("10.99.0.2", "fd98::2"))
        for gateway in NODE_ADDRESSES:
            ip(self.pod, "route", "add", "default", "via", gateway)
        for address in BACKENDS:
            ip(self.node, "address", "add", address, "dev", "lo", *at_once(address))
        self.start(serve, self.node, hooked=False)

    def remove(self) -> None:
        for pid in self._processes:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if self.cgroup.exists():
            self.cgroup.rmdir()

    def run(self, function: Callable[..., Any], *args: Any, netns: Path | None = None) -> Any:
        """Run a function at the place of a client and return its result, or raise its error."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            self._child(function, args, netns or self.node, writer)
        os.close(writer)
        with open(reader, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(pid, 0)
        assert answer, f"{function.__name__} ended without an answer in {LIMIT_S} s"
        worked, value = pickle.loads(answer)
        if not worked:
            raise value
        return value

    def start(
        self, function: Callable[[int], None], netns: Path | None, hooked: bool = True
    ) -> int:
        """Start a process that goes on; return its id when it says that it is ready."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                if netns:
                    self._enter(netns, hooked)
                function(writer)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        self._processes.append(pid)
        os.close(writer)
        ready = os.read(reader, 1)
        os.close(reader)
        assert ready, "the process ended before it was ready"
        return pid

    def _namespace(self) -> Path:
        """A namespace without a name: it ends with the process that holds it."""
        made = Path(f"/proc/{self.start(hold_namespace, None, hooked=False)}/ns/net")
        ip(made, "link", "set", "lo", "up")
        return made

    def _enter(self, netns: Path, hooked: bool) -> None:
        if hooked:
            (self.cgroup / "cgroup.procs").write_text(str(os.getpid()))
        enter_netns(netns)

    def _child(self, function: Callable[..., Any], args: Any, netns: Path, writer: int) -> None:
        signal.alarm(LIMIT_S)
        try:
            self._enter(netns, hooked=True)
            answer = pickle.dumps((True, function(*args)))
        except BaseException as error:
            answer = pickle.dumps((False, _portable(error)))
        try:
            with open(writer, "wb") as pipe:
                pipe.write(answer)
        finally:
            os._exit(0)

    def _configure(self, netns: Path, device: str, addresses: tuple[str, ...]) -> None:
        for address in addresses:
            prefix = "/64" if ":" in address else "/24"
            ip(netns, "address", "add", address + prefix, "dev", device, *at_once(address))
        ip(netns, "link", "set", device, "up")


def ip(netns: Path, *args: str) -> None:
    """Run ip(8) in a namespace."""
    subprocess.run(["nsenter", f"--net={netns}", "ip", *args], check=True)


def at_once(address: str) -> list[str]:
    """Options with which an address may be bound as soon as it is there."""
    return ["nodad"] if ":" in address else []


def hold_namespace(ready: int) -> None:
    """Make a network namespace of one's own and stay in it."""
    if _libc.unshare(CLONE_NEWNET) < 0:
        raise OSError(ctypes.get_errno(), "unshare")
    os.write(ready, b"1")
    signal.pause()


def serve(ready: int) -> None:
    """Answer each connection and datagram with the address that it reached; never return."""
    selector = selectors.DefaultSelector()
    for address in BACKENDS:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
        datagrams = socket.socket(family, socket.SOCK_DGRAM)
        for server in (listener, datagrams):
            server.bind((address, PORT))
            selector.register(server, selectors.EVENT_READ, address.encode())
        listener.listen(512)
    os.write(ready, b"1")
    os.close(ready)
    while True:
        for key, _ in selector.select():
            _answer(selector, key.fileobj, key.data)


def _answer(selector: selectors.BaseSelector, server: Any, name: bytes) -> None:
    try:
        if server.type == socket.SOCK_DGRAM:
            _, client = server.recvfrom(2048)
            server.sendto(name, client)
        elif name:
            connection, _ = server.accept()
            selector.register(connection, selectors.EVENT_READ, b"")
            connection.sendall(name)
            connection.shutdown(socket.SHUT_WR)
        elif not server.recv(2048):
            selector.unregister(server)
            server.close()
    except OSError:  # the client is gone already
        if not name:
            selector.unregister(server)
            server.close()


def _portable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(repr(error))
    return error
