# SPDX-License-Identifier: Apache-2.0
"""What kube-proxy leaves in the mode ipvs, besides its rules: virtual servers, a device, ip sets.

Connections through virtual servers end with these: IPVS has no memory beside them. The virtual
servers go only where kube-proxy's device shows that they are its own; somebody else may use IPVS.
Works in the network namespace of the calling thread, and blocks. Called by ``leftovers``. pyroute2
is imported late, since it weighs 10 MB.
"""

from __future__ import annotations

import errno
import ipaddress
import shutil
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Sequence

from kubeproxy_bpf.config.gotext import sloppy_cidr
from kubeproxy_bpf.takeover.names import IPSETS, IPVS_DEVICE

_SERVERS = Path("/proc/thread-self/net/ip_vs")
_TOOL = "ipvsadm"
_NO_IPSETS = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT, errno.EPROTONOSUPPORT)


class IpvsError(OSError):
    """ipvsadm is missing, or said no."""


def device() -> int | None:
    """The number of kube-proxy's device, where there is one."""
    try:
        return socket.if_nametoindex(IPVS_DEVICE)
    except OSError:
        return None


def servers() -> int:
    """Count the virtual servers, if kube-proxy's device is there too."""
    if device() is None:
        return 0
    try:
        lines = _SERVERS.read_text().splitlines()
    except OSError:  # the kernel has no IPVS, or it was never used
        return 0
    return sum(line.startswith(("TCP ", "UDP ", "SCTP ", "FWM ")) for line in lines)


def sets() -> list[str]:
    """kube-proxy's ip sets."""
    from pyroute2 import IPSet

    try:
        with _refusals(), IPSet() as sets:
            names = {each.get_attr("IPSET_ATTR_SETNAME") for each in sets.list()}
    except OSError as error:
        if error.errno in _NO_IPSETS:
            return []
        raise
    return sorted(names & IPSETS)


def remove(index: int, servers: int, spared: Sequence[str] = ()) -> None:
    """Remove all virtual servers but those in the ``spared`` CIDRs (ipvs.excludeCIDRs), then
    kube-proxy's device: it tells whose the servers are.

    Raises:
        IpvsError: virtual servers stay, and so does the device.
    """
    if servers:
        _clear(spared)
    from pyroute2 import IPRoute

    with _refusals(), IPRoute() as route:
        route.link("del", index=index)


def _clear(spared: Sequence[str]) -> None:
    if shutil.which(_TOOL) is None:
        raise IpvsError(errno.ENOENT, f"virtual servers stay: there is no {_TOOL}")
    if not spared:
        _run("--clear")
        return
    networks = [ipaddress.ip_network(sloppy_cidr(cidr)) for cidr in spared]
    for line in _run("--save", "--numeric").splitlines():
        command, kind, server, *_ = [*line.split(), "", "", ""]
        if command != "-A" or kind == "-f":  # kube-proxy makes none for firewall marks
            continue
        address = ipaddress.ip_address(server.rpartition(":")[0].strip("[]"))
        if not any(address in network for network in networks):
            _run("--delete-service", kind, server)


def _run(*arguments: str) -> str:
    done = subprocess.run([_TOOL, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise IpvsError(done.returncode, f"{_TOOL}: {done.stderr.strip()}")
    return done.stdout


def remove_set(name: str) -> None:
    """Destroy an ip set; rules that look into it have to be gone."""
    from pyroute2 import IPSet

    with _refusals(), IPSet() as sets:
        sets.destroy(name)


@contextmanager
def _refusals() -> Iterator[None]:
    """Netlink's refusals are OSErrors."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        raise OSError(error.code, str(error)) from error
