# SPDX-License-Identifier: Apache-2.0
"""Tells whether a kube-proxy is alive on this node: by who listens on the ports that it holds.

A kube-proxy listens on its health and metrics ports for life, and a container without the host's
process ids has no other way to see one. What this process listens on itself does not count. Works
in the network namespace of the calling thread. Called by ``takeover`` and ``cleanup``. pyroute2 is
imported late, since it weighs 10 MB.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Iterable, Iterator

from kubeproxy_bpf.config.schema import Config

DEFAULT_PORTS = frozenset({10249, 10256})
"""Where a kube-proxy listens that was not told otherwise: metrics and health."""


def ports_of(config: Config) -> frozenset[int]:
    """The ports of a kube-proxy of this configuration, and of one without any."""
    listeners = (config.healthz_bind_address, config.metrics_bind_address)
    own = {int(address.rpartition(":")[2]) for address in listeners if address}
    return DEFAULT_PORTS | (own - {0})


def held_by_others(ports: Iterable[int]) -> list[int]:
    """Those of the TCP ports on which another process listens.

    Raises:
        OSError: the kernel does not tell.
    """
    own = _own_sockets()
    return sorted(set(ports) & {port for port, inode in _listeners() if inode not in own})


def _listeners() -> Iterator[tuple[int, int]]:
    """Port and inode of each."""
    from pyroute2.netlink.diag import SS_LISTEN, DiagSocket
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with DiagSocket() as diag:
            for family in (socket.AF_INET, socket.AF_INET6):
                for each in diag.get_sock_stats(family=family, states=1 << SS_LISTEN):
                    yield each["idiag_sport"], each["idiag_inode"]
    except NetlinkError as error:
        raise OSError(error.code, str(error)) from error


def _own_sockets() -> set[int]:
    inodes = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            kind, _, rest = os.readlink(entry).partition(":[")
        except OSError:  # closed meanwhile
            continue
        if kind == "socket":
            inodes.add(int(rest.removesuffix("]")))
    return inodes
