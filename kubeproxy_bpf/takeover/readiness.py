# SPDX-License-Identifier: Apache-2.0
"""Tells when the packet programs serve, so that nobody needs kube-proxy's rules any more.

They come to the devices some time after the hooks of the sockets; where the kernel refuses them,
node ports are still those of the rules that a kube-proxy left. Called by ``takeover``.
"""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Callable

import structlog

from kubeproxy_bpf.serve.devices import DeviceReading

_log = structlog.get_logger(__name__)

_LOOK_S = 0.5
_TOLD_AFTER = 20
"""Looks: every start takes some seconds."""


async def serving(read: Callable[[], DeviceReading]) -> None:
    """Wait until every uplink has its programs, and nothing is just being attached."""
    before: tuple[tuple[str, str], ...] = ()
    for look in count():
        reading = read()
        problem = unserved(reading)
        if problem and look == _TOLD_AFTER:
            _log.warning("takeover_waits", until=problem)
        if not problem and reading.attached == before:
            return
        before = reading.attached
        await asyncio.sleep(_LOOK_S)


def unserved(reading: DeviceReading) -> str:
    """What is missing yet; empty if nothing is."""
    if not reading.loaded:
        return "packet programs are loaded"
    if not reading.attached:
        return "packet programs are attached"
    if not reading.xdp_modes:
        return "an uplink is found"
    for device in reading.xdp_modes:
        if (device, "ingress") not in reading.attached:
            return f"uplink {device} has its programs"
    return ""
