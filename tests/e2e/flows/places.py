# SPDX-License-Identifier: Apache-2.0
"""What the tests of flows put into the places of a sandbox: addresses, responders and sockets."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterable, Iterator, Sequence

from kubeproxy_bpf.sandbox.cluster import Sandbox
from kubeproxy_bpf.sandbox.namespace import path_of

_RESPONDER = Path(__file__).with_name("responder.py")


def ip_batch(sandbox: Sandbox, place: str, lines: Sequence[str]) -> None:
    """Run lines of the ``ip`` command in a place."""
    argv = ["nsenter", f"--net={path_of(sandbox.layout.netns(place))}", "ip", "-batch", "-"]
    done = subprocess.run(argv, input="\n".join(lines) + "\n", capture_output=True, text=True)
    assert done.returncode == 0, (place, done.stderr)


@contextmanager
def applied(sandbox: Sandbox, place: str, line: str) -> Iterator[None]:
    """Something that the ``ip`` command adds, and deletes again: "{}" stands for the verb."""
    ip_batch(sandbox, place, [line.format("add")])
    try:
        yield
    finally:
        ip_batch(sandbox, place, [line.format("del")])


@contextmanager
def responder(sandbox: Sandbox, place: str, ports: Iterable[str]) -> Iterator[None]:
    """A program in a place that answers with the address at which it was reached."""
    argv = [sys.executable, "-I", "-S", str(_RESPONDER), *ports]
    with subprocess.Popen(
        sandbox.place(place).launch(argv), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert "ready\n" == process.stdout.readline(), place
            yield
        finally:
            process.terminate()


def socket_in(sandbox: Sandbox, place: str, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket that was made in a place, and so belongs to its namespace and control group."""
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def send() -> None:
            with make() as made:
                socket.send_fds(theirs, [b"."], [made.fileno()])

        sandbox.run_in(place, send)
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    return socket.socket(fileno=descriptors[0])
