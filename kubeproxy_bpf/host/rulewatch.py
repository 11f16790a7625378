# SPDX-License-Identifier: Apache-2.0
"""Hears that rules of netfilter changed, as far as the kernel tells: not for legacy iptables.

iptables in its nft backend is nftables to the kernel. What changed is not looked at. Called by
``forward``.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Self

import structlog

from kubeproxy_bpf.host import nfnetlink

_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_NFNLGRP_NFTABLES = 7
_SETTLE_S = 0.2
"""Who flushes and loads again is given the time to do both."""

_log = structlog.get_logger(__name__)


class RuleWatch:
    """A membership in the kernel's announcements; used within one event loop."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._channel: socket.socket | None = None

    def __enter__(self) -> Self:
        try:
            channel = nfnetlink.open_channel()
        except OSError as error:
            _log.debug("rules_not_watched", error=str(error))
            return self
        self._channel = channel
        channel.setblocking(False)
        try:
            # Who has no address yet is told nothing.
            channel.bind((0, 0))
            channel.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
        except OSError as error:
            _log.debug("rules_not_watched", error=str(error))
        asyncio.get_running_loop().add_reader(channel, self._read, channel)
        return self

    def __exit__(self, *args: object) -> None:
        if self._channel is not None:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._channel.close()

    async def changed(self, at_most_s: float) -> None:
        """Return soon after rules changed, or when so long nothing was heard."""
        try:
            async with asyncio.timeout(at_most_s):
                await self._changed.wait()
        except TimeoutError:
            return
        await asyncio.sleep(_SETTLE_S)
        self._changed.clear()

    def _read(self, channel: socket.socket) -> None:
        self._changed.set()
        try:
            while nfnetlink.receive(channel):
                pass
        except BlockingIOError:
            pass
        except OSError as error:  # more was told than fits the queue: that is told, too
            _log.debug("rule_changes_missed", error=str(error))
