# SPDX-License-Identifier: Apache-2.0
"""Follows the devices of the node and their addresses through netlink.

Calls back with the whole set whenever it changes; never polls. It does not judge what an address or
a device is good for: ``node.addresses``, ``node.attachment`` and the model do. pyroute2 is imported
late, since it weighs 10 MB. Run by ``app``.
"""

from __future__ import annotations

import asyncio
import errno
from typing import Any, Callable, Collection, Iterable, NamedTuple

import structlog

from kubeproxy_bpf.api.addresses import is_ipv4, parse_address

_SETTLE_S = 0.01
_REST = 1
"""For so many times as long as a read took there is no other: events come in hundreds."""
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
    """Reports devices and local addresses at once and after each change, devices first.

    The first read is of everything. After it a device that changed is read alone: where hundreds of
    pods come and go, reading all devices for each of them would keep a processor busy.
    """

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
        self._links: dict[int, Device] = {}
        """As last read, without their addresses."""
        self._partners: dict[int, int] = {}
        """What each is stacked on, or the other end of the wire, if that is here."""
        self._addresses: dict[int, tuple[DeviceAddress, ...]] = {}
        self._stale: set[int] = set()
        """Devices that something happened to since they were read."""
        self._stale_addresses = False

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

        # Events may have been lost before this.
        self._links.clear()
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
        """Note what something happened to; what it was, the next read tells.

        A message does not: those of a bridge's ports speak of the bridge's view alone.
        """
        while True:
            async for message in route.get():
                # pyroute2 has no name for RTM_NEWCHAIN, with which the first filter comes.
                event = message.get("event") or "CHAIN"
                if event.endswith(_FILTER_EVENTS):
                    self._report_filters()
                    continue
                if event.endswith("ADDR"):
                    self._stale_addresses = True
                elif event.endswith("LINK"):
                    self._stale.add(message["index"])
                else:  # actions of filters, which belong to no device
                    continue
                changed.set()

    async def _read_after(self, changed: asyncio.Event, route: Any) -> None:
        """One read for all events of a moment: a node that starts pods sees hundreds."""
        loop = asyncio.get_running_loop()
        while True:
            await changed.wait()
            if self._last is not None:
                await asyncio.sleep(_SETTLE_S)
            changed.clear()
            begin = loop.time()
            if not await self._read(route):
                self._links.clear()
                changed.set()
            await asyncio.sleep(_REST * (loop.time() - begin))

    async def _read(self, route: Any) -> bool:
        """Read and report; False if what was read is of no one moment and must be repeated."""
        stale, self._stale = self._stale, set()
        stale_addresses, self._stale_addresses = self._stale_addresses, False
        whole = len(stale) >= len(self._links) // 2  # also if nothing was read yet
        if not await (self._read_links(route) if whole else self._read_each(route, stale)):
            return False
        if (whole or stale_addresses) and not await self._read_addresses(route):
            return False
        self._tell()
        return True

    async def _read_links(self, route: Any) -> bool:
        links = [link async for link in await route.get_links(ext_mask=_EXT_SKIP_STATS)]
        self._links = {link["index"]: _device(link) for link in links}
        self._partners = {link["index"]: _partner(link) for link in links}
        return not _is_interrupted(links)

    async def _read_each(self, route: Any, stale: Collection[int]) -> bool:
        # Nobody tells of a device that the other end of its wire went elsewhere, or came back.
        partners = self._partners_of(stale)
        for index in stale:
            await self._read_one(route, index)
        partners |= self._partners_of(stale)
        for index in (partners & self._links.keys()) - set(stale):
            await self._read_one(route, index)
        return True

    def _partners_of(self, stale: Collection[int]) -> set[int]:
        """In both directions: one that went says nothing of its partner any more."""
        there = {self._partners.get(index, 0) for index in stale}
        return there | {index for index, other in self._partners.items() if other in stale}

    async def _read_one(self, route: Any, index: int) -> None:
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            async for link in await route.get_links(index, ext_mask=_EXT_SKIP_STATS):
                self._links[index] = _device(link)
                self._partners[index] = _partner(link)
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise
            self._links.pop(index, None)
            self._partners.pop(index, None)

    async def _read_addresses(self, route: Any) -> bool:
        messages = [message async for message in await route.get_addr()]
        self._addresses = _addresses_by_device(messages)
        return not _is_interrupted(messages)

    def _tell(self) -> None:
        """Report what differs from the last report."""
        devices = tuple(
            self._links[index]._replace(addresses=self._addresses.get(index, ()))
            for index in sorted(self._links)
        )
        if devices != self._last_devices:
            self._last_devices = devices
            self._report_devices(devices)
        local = frozenset(LocalAddress(a.address, d.name) for d in devices for a in d.addresses)
        if local != self._last:
            self._last = local
            self._report(local)


def _is_interrupted(messages: Iterable[Any]) -> bool:
    """Whether something changed while the kernel wrote these."""
    return any(message["header"]["flags"] & _NLM_F_DUMP_INTR for message in messages)


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


def _device(link: Any) -> Device:
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
        addresses=(),
    )


def _partner(link: Any) -> int:
    return link.get("link") or 0 if link.get("link_netnsid") is None else 0


def _mac(text: str) -> bytes:
    """Six bytes; hardware addresses of other kinds of links do not matter to us."""
    raw = bytes.fromhex(text.replace(":", "")) if text.count(":") == 5 else b""
    return raw if len(raw) == 6 else bytes(6)
