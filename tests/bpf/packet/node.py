# SPDX-License-Identifier: Apache-2.0
"""The node that the packet programs run on: devices, routes and neighbours in a namespace.

BPF_PROG_TEST_RUN sends nothing, but routes, neighbours, sockets and conntrack are looked up in the
network namespace of the calling thread, so every run happens ``inside`` of it.

    outside clients ── gateway ─┐
    node-b (10.244.2.0/24) ─────┴ up0   up1 ── a second network      tun0 (no Ethernet header)
                                    node
                         pod0 ──────┘ └────── pod1
                  10.244.1.10, 8.0.1.10        10.244.1.20
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

CLONE_NEWNET = 0x40000000
NODE = ("192.168.0.1", "fd00:192:168::1")
NODE_SECOND = ("192.168.1.1", "fd00:192:168:1::1")
NODE_B = ("192.168.0.2", "fd00:192:168::2")
GATEWAY = ("192.168.0.254", "fd00:192:168::fe")
GATEWAY_SECOND = ("192.168.1.254", "fd00:192:168:1::fe")
OUTSIDE = ("203.0.113.50", "2001:db8:86dd::50")
"""A client behind the gateway. Its IPv6 address is also one for test-runs of L3 devices."""
OUTSIDE_L3 = ("8.0.0.50", "2001:db8:86dd::50")
LOCAL_POD = ("10.244.1.10", "fd00:10:244:1::a")
LOCAL_POD_2 = ("10.244.1.20", "fd00:10:244:1::14")
LOCAL_POD_L3 = ("8.0.1.10", "2001:db8:86dd:1::a")
REMOTE_POD = ("10.244.2.10", "fd00:10:244:2::a")
REMOTE_POD_L3 = ("8.0.2.10", "2001:db8:86dd:2::a")

FAR_POD = ("10.244.4.10", "fd00:10:244:4::a")
"""A remote pod by way of the second uplink."""
NARROW_POD = ("10.244.3.10", "fd00:10:244:3::a")
"""A remote pod behind a route with a smaller MTU; routers regard only a locked one."""
NARROW_MTU = 1300

UPLINK, UPLINK_SECOND, POD, POD_2, TUNNEL = "up0", "up1", "pod0", "pod1", "tun0"
MTU = 1500
MAC = {
    UPLINK: "02:00:00:00:00:01",
    UPLINK_SECOND: "02:00:00:00:01:01",
    POD: "02:00:00:00:10:01",
    POD_2: "02:00:00:00:11:01",
}
PEER_MAC = {
    NODE_B: "02:00:00:00:00:02",
    GATEWAY: "02:00:00:00:00:fe",
    GATEWAY_SECOND: "02:00:00:00:01:fe",
    LOCAL_POD: "02:00:00:00:10:02",
    LOCAL_POD_L3: "02:00:00:00:10:03",
    LOCAL_POD_2: "02:00:00:00:11:02",
}

_libc = ctypes.CDLL(None, use_errno=True)


def _setup() -> Iterator[str]:
    """Lines for ``ip -batch``."""
    for device, mac in MAC.items():
        yield f"link add {device} address {mac} mtu {MTU} type veth peer name {device}p"
        yield f"link set {device}p up"
        yield f"link set {device} up"
    yield f"tuntap add {TUNNEL} mode tun"
    yield f"link set {TUNNEL} up mtu {MTU}"
    yield "link set lo up"
    for device, addresses in ((UPLINK, NODE), (UPLINK_SECOND, NODE_SECOND)):
        yield f"address add {addresses[0]}/24 dev {device}"
        yield f"address add {addresses[1]}/64 dev {device} nodad"
    for network in LOCAL_NETS:
        yield f"route add {network} dev {POD}"
    for peer, mac in PEER_MAC.items():
        yield from _peer(peer, mac)
    for family, gateway in enumerate(GATEWAY):
        yield f"route add default via {gateway} dev {UPLINK}"
        for network in REMOTE_NETS[family]:
            yield f"route add {network} via {NODE_B[family]} dev {UPLINK}"
        yield f"route add {FAR_POD[family]} via {GATEWAY_SECOND[family]} dev {UPLINK_SECOND}"
        narrow = f"{NARROW_POD[family]} via {NODE_B[family]} dev {UPLINK}"
        yield f"route add {narrow} mtu lock {NARROW_MTU}"


def _peer(peer: tuple[str, str], mac: str) -> Iterator[str]:
    device = next(name for name, own in MAC.items() if own[:-2] == mac[:-2])
    for address in peer:
        if device in (POD, POD_2):
            yield f"route add {address} dev {device}"
        yield f"neighbour add {address} lladdr {mac} dev {device}"


LOCAL_NETS = ("10.244.1.0/24", "10.250.1.0/24", "fd00:10:244:1::/64", "fd00:10:250:1::/64")
REMOTE_NETS = (
    ("10.244.2.0/24", "8.0.2.0/24"),
    ("fd00:10:244:2::/64", "2001:db8:86dd:2::/64"),
)
SYSCTLS = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")


class Node:
    """A network namespace with the devices; it ends when the last descriptor is closed."""

    def __init__(self) -> None:
        self._outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.ifindex: dict[str, int] = {}
        try:
            if _libc.unshare(CLONE_NEWNET) < 0:
                raise OSError(ctypes.get_errno(), "unshare")
            self._inside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self._build()
        finally:
            _setns(self._outside)

    def _build(self) -> None:
        for name in SYSCTLS:
            Path("/proc/sys", name).write_text("1")
        ip_batch(_setup())
        for device in (*MAC, TUNNEL, "lo"):
            self.ifindex[device] = _if_nametoindex(device)

    def close(self) -> None:
        os.close(self._inside)
        os.close(self._outside)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Run the body in the namespace."""
        _setns(self._inside)
        try:
            yield
        finally:
            _setns(self._outside)


def ip_batch(lines: Iterator[str]) -> None:
    """Run lines of ip(8) in the namespace of the calling thread."""
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def _if_nametoindex(name: str) -> int:
    index: int = _libc.if_nametoindex(name.encode())
    assert index, name
    return index


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) < 0:
        raise OSError(ctypes.get_errno(), "setns")
