# SPDX-License-Identifier: Apache-2.0
"""Follows the devices of the node and their addresses through netlink.

Calls back with the whole set whenever it changes; never polls. It does not judge what an address or
a device is good for: ``node.addresses``, ``node.attachment`` and the model do. pyroute2 is imported
late, since it weighs 10 MB. Run by ``app``.
"""

from __future__ import annotations

import asyncio
from typing import Any, Callable, NamedTuple

import structlog

from kubeproxy_bpf.api.addresses import is_ipv4, parse_address

_SETTLE_S = 0.1
_RETRY_S = 1.0
_NLM_F_DUMP_INTR = 0x10
_EXT_SKIP_STATS = 1 << 3
_IFF_UP = 1
_IFA_F_UNUSABLE = 0x08 | 0x20 | 0x40  # duplicate, deprecated, not yet known to be single
_IFA_F_TEMPORARY = 0x01  # of IPv6; IPv4 calls additional addresses of a subnet so
_SCOPE_GLOBAL = 0
_FILTER_EVENTS = ("QDISC", "TFILTER", "TCLASS", "CHAIN")
_log = structlog.get_logger(__name__)


class LocalAddress(NamedTuple):
    """An address that a device of this network namespace carries."""

    address: bytes
    """16 bytes, v4-mapped."""
    device: str


class DeviceAddress(NamedTuple):
    """An address as its device has it."""

    address: bytes
    prefix_bits: int
    """Counted in 128: 128 is this address alone, of either family."""
    usable: bool
    """Of global scope, proved to be nobody else's, and not about to go."""


class Device(NamedTuple):
    """A device of this network namespace."""

    ifindex: int
    name: str
    kind: str
    """As rtnetlink calls it: veth, bridge, vxlan...; empty: physical, or loopback."""
    link_type: int
    """ARPHRD_*: 1 = Ethernet."""
    mac: bytes
    """6 bytes; zero where there is none."""
    mtu: int
    up: bool
    master: int
    """Index of the bridge, bond or VRF that it is a port of; 0: none."""
    peer_elsewhere: bool
    """It is one end of something whose other end is in another network namespace."""
    addresses: tuple[DeviceAddress, ...]
    """In the kernel's order: what it would choose first comes first."""


class DeviceWatcher:
    """Reports devices and local addresses at once and after each change, devices first."""

    def __init__(
        self,
        report: Callable[[frozenset[LocalAddress]], None],
        report_devices: Callable[[tuple[Device, ...]], None] = lambda devices: None,
        report_filters: Callable[[], None] = lambda: None,
    ) -> None:
        """``report_filters`` is told that some qdisc or filter changed, on whatever device."""
        self._report = report
        self._report_devices = report_devices
        self._report_filters = report_filters
        self._last: frozenset[LocalAddress] | None = None
        self._last_devices: tuple[Device, ...] | None = None

    async def run(self) -> None:
        """Follow the devices for ever; whatever netlink says, it is opened anew."""
        from pyroute2.netlink.exceptions import NetlinkError

        while True:
            try:
                await self._follow()
            except* (OSError, NetlinkError, asyncio.QueueFull) as errors:
                _log.warning("address_watch_restarted", error=str(errors.exceptions[0]))
            await asyncio.sleep(_RETRY_S)

    async def _follow(self) -> None:
        from pyroute2 import AsyncIPRoute
        from pyroute2.netlink import rtnl

        async with AsyncIPRoute() as events, AsyncIPRoute() as queries:
            # A device that goes takes its addresses along, each with an event.
            addresses = rtnl.RTMGRP_IPV4_IFADDR | rtnl.RTMGRP_IPV6_IFADDR
            await events.bind(rtnl.RTMGRP_LINK | rtnl.RTMGRP_TC | addresses)
            changed = asyncio.Event()
            changed.set()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._drain(events, changed))
                tasks.create_task(self._read_after(changed, queries))

    async def _drain(self, route: Any, changed: asyncio.Event) -> None:
        """Note that something happened; what it was, the next read tells."""
        while True:
            async for message in route.get():
                if message["event"].endswith(_FILTER_EVENTS):
                    self._report_filters()
                else:
                    changed.set()

    async def _read_after(self, changed: asyncio.Event, route: Any) -> None:
        """One read for all events of a moment: a node that starts pods sees hundreds."""
        while True:
            await changed.wait()
            if self._last is not None:
                await asyncio.sleep(_SETTLE_S)
            changed.clear()
            if not await self._read(route):
                changed.set()

    async def _read(self, route: Any) -> bool:
        """Dump and report; False if the dump is of no one moment and must be repeated."""
        links = [link async for link in await route.get_links(ext_mask=_EXT_SKIP_STATS)]
        messages = [message async for message in await route.get_addr()]
        if any(item["header"]["flags"] & _NLM_F_DUMP_INTR for item in (*links, *messages)):
            return False
        addresses = _addresses_by_device(messages)
        devices = tuple(_device(link, addresses.get(link["index"], ())) for link in links)
        if devices != self._last_devices:
            self._last_devices = devices
            self._report_devices(devices)
        local = frozenset(LocalAddress(a.address, d.name) for d in devices for a in d.addresses)
        if local != self._last:
            self._last = local
            self._report(local)
        return True


def _addresses_by_device(messages: list[Any]) -> dict[int, tuple[DeviceAddress, ...]]:
    found: dict[int, list[DeviceAddress]] = {}
    for message in messages:
        address = parse_address(message.get("local") or message.get("address") or "")
        if address is None:
            continue
        bits = message["prefixlen"] + (96 if is_ipv4(address) else 0)
        unusable = _IFA_F_UNUSABLE | (0 if is_ipv4(address) else _IFA_F_TEMPORARY)
        flags = message.get("flags") or 0
        usable = message["scope"] == _SCOPE_GLOBAL and not flags & unusable
        found.setdefault(message["index"], []).append(DeviceAddress(address, bits, usable))
    return {index: tuple(addresses) for index, addresses in found.items()}


def _device(link: Any, addresses: tuple[DeviceAddress, ...]) -> Device:
    info = link.get("linkinfo")
    return Device(
        ifindex=link["index"],
        name=link.get("ifname") or "",
        kind=(info and info.get("kind")) or "",
        link_type=link["ifi_type"],
        mac=_mac(link.get("address") or ""),
        mtu=link.get("mtu") or 0,
        up=bool(link["flags"] & _IFF_UP),
        master=link.get("master") or 0,
        peer_elsewhere=link.get("link_netnsid") is not None,
        addresses=addresses,
    )


def _mac(text: str) -> bytes:
    """Six bytes; hardware addresses of other kinds of links do not matter to us."""
    raw = bytes.fromhex(text.replace(":", "")) if text.count(":") == 5 else b""
    return raw if len(raw) == 6 else bytes(6)
