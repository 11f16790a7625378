# SPDX-License-Identifier: Apache-2.0
"""Tells the packet programs what they must know of each device: the map ``kpb_devices``.

Writes what differs and removes what is gone; what an earlier process wrote is taken as it is found.
Called by ``packets``, in a thread.
"""

from __future__ import annotations

import struct
from enum import IntFlag
from typing import Mapping, NamedTuple

import structlog

from kubeproxy_bpf.dataplane import layout
from kubeproxy_bpf.dataplane.layout import TypeInfo
from kubeproxy_bpf.libbpf import LibbpfError
from kubeproxy_bpf.libbpf.abc import Map

_log = structlog.get_logger(__name__)


class DeviceFlags(IntFlag):
    POD = 1
    POD_LOCAL = 2
    ETHERNET = 4
    XDP_TARGET = 8
    PEER = 16


class DeviceRecord(NamedTuple):
    ipv4: bytes
    """Address to masquerade with on the way out, v4-mapped; zero: the node's."""
    ipv6: bytes
    mac: bytes
    flags: int
    """DeviceFlags"""
    mtu: int


class DeviceMap:
    """The only writer of ``kpb_devices``."""

    def __init__(self, devices: Map, btf: TypeInfo) -> None:
        layout.check_enum(btf, "device_flags", "DEVICE_", DeviceFlags)
        self._codec = layout.bind(btf, "device", DeviceRecord)
        self._map = devices
        self._written = dict(devices.items())

    def sync(self, devices: Mapping[int, DeviceRecord]) -> None:
        """Make the map hold exactly these; what finds no room is logged and tried again."""
        wanted = {struct.pack("=I", index): self._codec.encode(r) for index, r in devices.items()}
        for key in self._written.keys() - wanted.keys():
            self._map.delete(key)
            del self._written[key]
        for key, value in wanted.items():
            if self._written.get(key) == value:
                continue
            try:
                self._map.update(key, value)
            except LibbpfError as error:
                _log.error("device_not_written", devices=len(devices), error=str(error))
                return
            self._written[key] = value
