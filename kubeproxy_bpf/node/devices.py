# SPDX-License-Identifier: Apache-2.0
"""Follows the local addresses of the node through netlink.

Calls back with the whole set whenever it changes; never polls. It does not judge what an address is
good for: ``node.addresses`` and the model do. pyroute2 is imported late, since it weighs 10 MB.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import Any, Callable, NamedTuple

import structlog

_SETTLE_S = 0.02
_RETRY_S = 1.0
_IPV4, _IPV6 = 2, 10
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
        """Follow the addresses for ever; a netlink socket that overflowed is opened anew."""
        while True:
            try:
                await self._follow()
            except (OSError, asyncio.QueueFull) as error:
                _log.warning("address_watch_restarted", error=str(error))
            await asyncio.sleep(_RETRY_S)

    async def _follow(self) -> None:
        from pyroute2 import AsyncIPRoute
        from pyroute2.netlink.rtnl import RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR, RTMGRP_LINK

        async with AsyncIPRoute() as events, AsyncIPRoute() as queries:
            await events.bind(RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_LINK)
            await self._read(queries)
            async for _event in _messages(events):
                await asyncio.sleep(_SETTLE_S)
                await self._read(queries)

    async def _read(self, route: Any) -> None:
        names = {link["index"]: link.get("ifname") async for link in await route.get_links()}
        addresses = frozenset(
            [
                LocalAddress(_mapped(text), names.get(message["index"]) or "")
                async for message in await route.get_addr()
                if (text := message.get("local") or message.get("address"))
            ]
        )
        if addresses != self._last:
            self._last = addresses
            self._report(addresses)


async def _messages(route: Any) -> Any:
    while True:
        async for message in route.get():
            yield message


def _mapped(text: str) -> bytes:
    address = ip_address(text)
    if address.version == 4:
        return b"\0" * 10 + b"\xff\xff" + address.packed
    return address.packed
