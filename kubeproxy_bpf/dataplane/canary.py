# SPDX-License-Identifier: Apache-2.0
"""Proves that the hooks run: attached is not the same.

A nested cgroup, or one whose sockets belong elsewhere, shows all links in place and never runs
them. So a child process in the cgroup connects a UDP socket, which sends no packet, to a reserved
VIP that only the programs know: they lead it to loopback. Its own address then shows that connect
was translated, its peer's that getpeername was. Only a connection that was made and not translated
tells that the hooks are dead; whatever kept the child from it proves nothing. It costs some 20 ms
of one processor. Called at the start and by the audit, in a thread.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

from kubeproxy_bpf.dataplane import layout
from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.errors import UnsupportedKernel
from kubeproxy_bpf.plan.records import Vip, VipFlags

# Documentation prefixes (RFC 5737, RFC 3849): no Service and no host can have them.
CANARY_IPV4 = "192.0.2.53"
CANARY_IPV6 = "2001:db8::53"
_RAW = {
    CANARY_IPV4: bytes(10) + b"\xff\xff" + bytes((192, 0, 2, 53)),
    CANARY_IPV6: b"\x20\x01\x0d\xb8" + bytes(11) + b"\x53",
}
_LOOPBACK = {CANARY_IPV4: "127.0.0.1", CANARY_IPV6: "::1"}
_TIMEOUT_S = 10
_UNTRANSLATED = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.EINVAL)
"""What becomes of a connect to an address that nobody has. Any other errno has causes of its own:
policies of others, too few ports or descriptors, no memory."""

# Joins before it makes a socket: a socket keeps the cgroup in which it was made.
_CLIENT = """
import socket, sys
procs, *addresses = sys.argv[1:]
with open(procs, "w") as file:
    file.write("0")
for address in addresses:
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.connect((address, 53))
            print(address, client.getsockname()[0], client.getpeername()[0])
    except OSError as error:
        print(address, error.errno)
"""


class HooksDead(UnsupportedKernel):
    """A socket in the cgroup connected, and was not translated."""


def prove_hooks(datapath: Datapath, cgroup: Path) -> None:
    """Return if sockets in the cgroup are translated.

    Raises:
        HooksDead: they are not.
        UnsupportedKernel, OSError, SubprocessError, ValueError: that could not be found out, or
            only a part of it is so.
    """
    codec = layout.bind(datapath.btf, "vip", Vip)
    vips = datapath.maps["kpb_vips"]
    try:
        for raw in _RAW.values():
            vips.update(raw, codec.encode(Vip(VipFlags.CANARY)))
        answers = _ask(cgroup)
    finally:
        for raw in _RAW.values():
            vips.delete(raw)
    for address, loopback in _LOOPBACK.items():
        _judge(cgroup, address, loopback, answers[address])


def _ask(cgroup: Path) -> dict[str, list[str]]:
    command = [sys.executable, "-I", "-S", "-c", _CLIENT, str(cgroup / "cgroup.procs"), *_RAW]
    result = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    if result.returncode:
        reason = (result.stderr.splitlines() or ["no answer"])[-1]
        raise UnsupportedKernel("proof of the socket hooks", f"no process in {cgroup}: {reason}")
    lines = (line.split() for line in result.stdout.splitlines())
    return {address: answer for address, *answer in lines}


def _judge(cgroup: Path, address: str, loopback: str, answer: list[str]) -> None:
    if answer == [loopback, address]:
        return
    if ":" in address and not _has_ipv6():
        return
    if answer[0] == loopback:
        needs = f"connect is translated in {cgroup}, but getpeername shows {answer[1]}"
        raise UnsupportedKernel("socket hooks", needs)
    shown = ", ".join(answer)
    if answer[0].isdecimal():
        shown = os.strerror(int(answer[0]))
        if int(answer[0]) not in _UNTRANSLATED:
            needs = f"a socket in {cgroup} cannot connect ({shown})"
            raise UnsupportedKernel("proof of the socket hooks", needs)
    needs = f"attached to {cgroup}, they do not run for its sockets ({shown})"
    raise HooksDead("socket hooks", needs)


def _has_ipv6() -> bool:
    """Whether loopback has its IPv6 address: it may be switched off as a whole."""
    try:
        return "00000000000000000000000000000001" in Path("/proc/net/if_inet6").read_text()
    except OSError:
        return False
