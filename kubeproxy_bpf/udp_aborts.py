# SPDX-License-Identifier: Apache-2.0
"""When UDP sockets of removed backends are looked for, and what came of it.

Who is aborted, and how, is the business of ``dataplane.terminator``; which backends are lost, that
of the plan. Owned by ``instance``, run by ``app``.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Iterable, NoReturn

import structlog

from kubeproxy_bpf.dataplane.sock_diag import Peer
from kubeproxy_bpf.dataplane.terminator import Terminator
from kubeproxy_bpf.errors import DataplaneError
from kubeproxy_bpf.threads import in_thread

_log = structlog.get_logger(__name__)

_SECOND_LOOK_S = 1.0
_PATIENCE_S = 60.0
"""So long those are looked for that could not be: for want of descriptors, say."""


class UdpAborts:
    """Looks whenever it is asked, and once more a moment later."""

    def __init__(self, terminator: Terminator) -> None:
        self._terminator = terminator
        self._lost: dict[Peer, float] = {}
        """When each of them was lost, for as long as it is looked for."""
        self._asked = asyncio.Event()
        self._told = False
        self._refusal = ""
        self.sockets = 0
        """Aborted since the start."""

    def ask(self, lost: Iterable[Peer]) -> None:
        """UDP services changed, and lost these backends."""
        self._lost.update(dict.fromkeys(lost, time.monotonic()))
        self._asked.set()

    async def run(self) -> NoReturn:
        """Abort whenever asked; runs for ever."""
        # A socket that was just connecting shows up in its table a moment later: look twice.
        second_look = False
        while True:
            try:
                async with asyncio.timeout(_SECOND_LOOK_S if second_look else None):
                    await self._asked.wait()
                second_look = True
            except TimeoutError:
                second_look = False
            self._asked.clear()
            begin = time.monotonic()
            looked = await self._look(set(self._lost))
            second_look = second_look or not looked
            settled = begin - (_SECOND_LOOK_S if looked else _PATIENCE_S)
            self._lost = {peer: at for peer, at in self._lost.items() if at > settled}

    async def _look(self, lost: set[Peer]) -> bool:
        """Whether it could be done."""
        try:
            aborted = await in_thread(partial(self._terminator.run, lost))
        except (OSError, DataplaneError) as error:
            if str(error) != self._refusal:
                self._refusal = str(error)
                _log.warning("udp_sockets_not_aborted", error=self._refusal)
            return False
        self._refusal = ""
        self.sockets += aborted.sockets
        if aborted.unreachable and not self._told:
            self._told = True
            _log.warning(
                "udp_sockets_out_of_reach",
                namespaces=aborted.unreachable,
                needs="CAP_SYS_ADMIN, to enter network namespaces of pods",
            )
        if aborted.sockets:
            _log.info("udp_sockets_aborted", **aborted._asdict())
        return True

    def close(self) -> None:
        """Give the program back."""
        self._terminator.close()
