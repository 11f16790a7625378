# SPDX-License-Identifier: Apache-2.0
"""Follows the local addresses of the node through netlink.

Calls back with the whole set whenever it changes; never polls. It does not judge what an address is
good for: ``node.addresses`` and the model do. pyroute2 is imported late, since it weighs 10 MB.
"""

from __future__ import annotations

import asyncio
from typing import Any, Callable, NamedTuple

import structlog

from kubeproxy_bpf.api.addresses import parse_address

_SETTLE_S = 0.1
_RETRY_S = 1.0
_log = structlog.get_logger(__name__)


class LocalAddress(NamedTuple):
    """An address that a device of this network namespace carries."""

    address: bytes
    """16 bytes, v4-mapped."""
    device: str


class DeviceWatcher:
    """Reports the local addresses at once and after each change."""

    def __init__(self, report: Callable[[frozenset[LocalAddress]], None]) -> None:
        self._report = report
        self._last: frozenset[LocalAddress] | None = None

    async def run(self) -> None:
        """Follow the addresses for ever; whatever netlink says, it is opened anew."""
        from pyroute2.netlink.exceptions import NetlinkError

        while True:
            try:
                await self._follow()
            except* (OSError, NetlinkError, asyncio.QueueFull) as errors:
                _log.warning("address_watch_restarted", error=str(errors.exceptions[0]))
            await asyncio.sleep(_RETRY_S)

    async def _follow(self) -> None:
        from pyroute2 import AsyncIPRoute
        from pyroute2.netlink.rtnl import RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR

        async with AsyncIPRoute() as events, AsyncIPRoute() as queries:
            # A device that goes takes its addresses along, each with an event.
            await events.bind(RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR)
            changed = asyncio.Event()
            changed.set()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_drain(events, changed))
                tasks.create_task(self._read_after(changed, queries))

    async def _read_after(self, changed: asyncio.Event, route: Any) -> None:
        """One read for all events of a moment: a node that starts pods sees hundreds."""
        while True:
            await changed.wait()
            if self._last is not None:
                await asyncio.sleep(_SETTLE_S)
            changed.clear()
            await self._read(route)

    async def _read(self, route: Any) -> None:
        names = {link["index"]: link.get("ifname") async for link in await route.get_links()}
        addresses = frozenset(
            [
                LocalAddress(address, names.get(message["index"]) or "")
                async for message in await route.get_addr()
                if (address := parse_address(message.get("local") or message.get("address") or ""))
            ]
        )
        if addresses != self._last:
            self._last = addresses
            self._report(addresses)


async def _drain(route: Any, changed: asyncio.Event) -> None:
    """Note that something happened; what it was, the next read tells."""
    while True:
        async for _message in route.get():
            changed.set()
