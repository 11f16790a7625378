# SPDX-License-Identifier: Apache-2.0
"""What native XDP needs of a network made of veths, which no network of cables needs.

A veth takes back a frame that XDP sends only if its peer has a program too; and it hands over TCP
segments whose checksum nobody has computed yet, which no cable would carry.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Iterator

from kubeproxy_bpf.libbpf import Link
from kubeproxy_bpf.libbpf.enums import AttachType
from kubeproxy_bpf.libbpf.kernel import bpf_call
from kubeproxy_bpf.libbpf.ownedfd import OwnedFd
from kubeproxy_bpf.sandbox import namespace
from kubeproxy_bpf.sandbox.layout import Layout

_PROG_LOAD, _TYPE_XDP = 5, 6
_XDP_FLAGS_DRV_MODE = 4
_SIOCETHTOOL = 0x8946
_ETHTOOL_STXCSUM = 0x17
_PASS = bytes.fromhex("b700000002000000" "9500000000000000")
"""r0 = XDP_PASS; exit"""


class _ProgLoad(ctypes.Structure):
    _fields_ = [
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
    ]


@contextmanager
def ready_for_native_xdp(layout: Layout) -> Iterator[None]:
    """Give the nodes' veths in the wire a program, and all senders whole checksums."""
    for place in layout.places:
        namespace.call(layout.netns(place), _checksum_everything)
    with ExitStack() as stack:
        program = stack.enter_context(_passing_program())
        for node in layout.node_names:
            attach = partial(_attach, program.fd, f"to-{node}")
            stack.enter_context(namespace.call(layout.netns("net"), attach))
        yield


def _passing_program() -> OwnedFd:
    code, licence = ctypes.create_string_buffer(_PASS), ctypes.create_string_buffer(b"GPL")
    attr = _ProgLoad(_TYPE_XDP, len(_PASS) // 8, ctypes.addressof(code), ctypes.addressof(licence))
    return OwnedFd(bpf_call(_PROG_LOAD, attr, "bpf_prog_load", "pass"))


def _attach(program: int, device: str) -> Link:
    index = socket.if_nametoindex(device)
    return Link.create(program, index, AttachType.XDP, _XDP_FLAGS_DRV_MODE)


def _checksum_everything() -> None:
    """Switch off what leaves checksums to the device, at all devices of the namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            setting = (ctypes.c_uint32 * 2)(_ETHTOOL_STXCSUM, 0)
            request = name.encode().ljust(16, b"\0")
            request += ctypes.addressof(setting).to_bytes(8, "little") + bytes(16)
            try:
                fcntl.ioctl(sock, _SIOCETHTOOL, request)
            except OSError:  # loopback and bridges have no such switch
                continue
