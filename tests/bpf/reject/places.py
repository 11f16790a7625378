# SPDX-License-Identifier: Apache-2.0
"""Where answers are looked at: namespaces, and devices whose other end is a file (tun and tap).

Every frame has a virtio header, so that a test can hand over what a machine's own stack, or one of
a guest, hands to a device: checksums to be completed and segments not yet cut. A namespace lives
as long as its descriptors; nothing else of the machine is touched.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import socket
import struct
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, NamedTuple, Self

from kubeproxy_bpf.libbpf import AttachType, Link, ObjectProgram

MAC = "02:00:00:00:00:01"
PEER_MAC = "02:00:00:00:00:99"
LIMIT_S = 5.0

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x1, 0x2, 0x1000, 0x4000
_TUN_F_CSUM = 1
_VNET = struct.Struct("=BBHHHH")
_NEEDS_CHECKSUM = 1
_libc = ctypes.CDLL(None, use_errno=True)


class Offload(NamedTuple):
    """What is left to the device: the checksum from ``start`` on, and to cut into segments."""

    start: int
    offset: int
    kind: int = 0
    """VIRTIO_NET_HDR_GSO_*"""
    header: int = 0
    segment: int = 0


class Namespace:
    """A network namespace, alive until it is left."""

    def __init__(self) -> None:
        self._outside = _own_namespace()
        try:
            _check(_libc.unshare(_CLONE_NEWNET), "unshare")
            self._inside = _own_namespace()
            _ip("link set lo up")
        finally:
            _check(_libc.setns(self._outside, _CLONE_NEWNET), "setns")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._inside)
        os.close(self._outside)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Run the body in the namespace."""
        _check(_libc.setns(self._inside, _CLONE_NEWNET), "setns")
        try:
            yield
        finally:
            _check(_libc.setns(self._outside, _CLONE_NEWNET), "setns")

    def ip(self, *lines: str) -> None:
        with self.inside():
            _ip(*lines)

    def sysctl(self, name: str, value: int) -> None:
        with self.inside():
            Path("/proc/sys", name).write_text(str(value))

    def attach(self, program: ObjectProgram, device: str, where: AttachType) -> Link:
        with self.inside():
            return Link.create(program.fd, socket.if_nametoindex(device), where)

    def move(self, device: str, other: Namespace) -> None:
        """Give a device to another namespace."""
        self.ip(f"link set {device} netns /proc/{os.getpid()}/fd/{other._inside}")


class Wire:
    """A device in a namespace, and its other end."""

    def __init__(self, namespace: Namespace, ethernet: bool) -> None:
        self.namespace = namespace
        self.ethernet = ethernet
        self.name = "tap0" if ethernet else "tun0"
        self.l3 = 14 if ethernet else 0
        with namespace.inside():
            self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
            kind = _IFF_TAP if ethernet else _IFF_TUN
            request = struct.pack("16sH22x", self.name.encode(), kind | _IFF_NO_PI | _IFF_VNET_HDR)
            fcntl.ioctl(self._fd, _TUNSETIFF, request)
            # Nothing of the kernel's own may be between a packet and its answer.
            Path(f"/proc/sys/net/ipv6/conf/{self.name}/disable_ipv6").write_text("1")
            if ethernet:
                _ip(f"link set {self.name} address {MAC}")
            _ip(f"link set {self.name} up")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._fd)

    @contextmanager
    def attached(self, program: ObjectProgram) -> Iterator[None]:
        """Run the body with the program at the ingress of the device."""
        with self.namespace.attach(program, self.name, AttachType.TCX_INGRESS):
            yield

    def leave_checksums(self, wanted: bool) -> None:
        """Take packets whose checksum is not complete, as a device that completes them."""
        fcntl.ioctl(self._fd, _TUNSETOFFLOAD, _TUN_F_CSUM if wanted else 0)

    def send(self, frame: bytes, offload: Offload | None = None) -> None:
        header = bytes(_VNET.size)
        if offload:
            header = _VNET.pack(
                _NEEDS_CHECKSUM,
                offload.kind,
                offload.header,
                offload.segment,
                offload.start,
                offload.offset,
            )
        os.write(self._fd, header + frame)

    def receive(self) -> tuple[bytes, Offload | None]:
        """The next frame that leaves by the device, and what is left to do for it."""
        assert self.waiting(LIMIT_S), "no frame came"
        data = os.read(self._fd, 1 << 17)
        flags, kind, header, segment, start, offset = _VNET.unpack_from(data)
        offload = Offload(start, offset, kind, header, segment)
        return data[_VNET.size :], offload if flags & _NEEDS_CHECKSUM else None

    def waiting(self, limit_s: float = 0.0) -> bool:
        """Whether a frame has left. A program ends before the ``send`` that it is called by."""
        # Not select(), which knows no descriptors beyond 1,024.
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(limit_s * 1000))


def _own_namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _ip(*lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def _check(result: int, call: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), call)
