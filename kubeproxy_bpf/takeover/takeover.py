# SPDX-License-Identifier: Apache-2.0
"""The task that ends what a kube-proxy left, once the programs serve in its place.

While a kube-proxy is alive its rules are its own: it is waited for, until nobody else holds its
ports. Then everything goes; rules that let forwarded traffic pass a FORWARD policy of DROP only
when those of ``host.forward`` are there in their place. Rules that come back belong to somebody who
is alive all the same: that is told, and not fought. Whatever happens here ends no traffic and no
process. Made and run by ``app``.
"""

from __future__ import annotations

import asyncio
from typing import Callable, Mapping

import structlog

from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.serve.devices import DeviceReading
from kubeproxy_bpf.takeover import leftovers
from kubeproxy_bpf.takeover.leftovers import Leftovers
from kubeproxy_bpf.takeover.ports import held_by_others, ports_of
from kubeproxy_bpf.takeover.readiness import serving
from kubeproxy_bpf.threads import in_thread

_log = structlog.get_logger(__name__)

_LOOK_S = 2.0
"""Between two looks at the ports: the listener of another process ends without a notice."""
_RETRY_S = 10.0
_TRIES = 6
_COMES_BACK_S = 90.0
"""A kube-proxy looks after its rules every 30 s by default."""


class Takeover:
    """From the rules of a kube-proxy to our programs, on one node."""

    def __init__(
        self,
        config: Config,
        devices: Callable[[], DeviceReading],
        *,
        found: Callable[[Mapping[str, int]], None] = lambda counts: None,
        comes_back_s: float = _COMES_BACK_S,
    ) -> None:
        """``devices`` tells where packet programs stand; ``found`` is told how much of a
        kube-proxy there is, by kind."""
        self._mode = config.takeover
        self._ports = ports_of(config)
        self._accepts_needed = config.forward_accept != "off"
        self._found = found
        self._spared = spared_by(config)
        self._comes_back_s = comes_back_s
        self._devices = devices

    async def run(self) -> None:
        """Do what the configuration says, and return when it is done; raises no error."""
        try:
            await self._run()
        except Exception as error:  # the proxy serves, whatever stands in rules of others
            _log.exception("takeover_failed", error=str(error), kind=type(error).__name__)

    async def _run(self) -> None:
        if self._mode == "off":
            return
        await serving(self._devices)
        if self._mode == "report":
            await self._look()
            return
        await self._kube_proxy_gone()
        if (await self._look()).counts and await self._clean():
            await asyncio.sleep(self._comes_back_s)
            await self._look_again()

    async def _look(self) -> Leftovers:
        found = await in_thread(leftovers.find)
        self._found(found.counts)
        if found.counts or found.kept or found.problems:
            _log.info("leftovers_found", **found.counts, kept=found.kept, problems=found.problems)
        else:
            _log.info("no_leftovers_found")
        return found

    async def _kube_proxy_gone(self) -> None:
        """Wait until nobody else listens where a kube-proxy does; tell once what is there."""
        told = False
        while (held := await self._held()) != []:
            if held and not told:
                _log.warning("kube_proxy_alive", ports=held, action=self._mode)
                await self._look()
                told = True
            await asyncio.sleep(_LOOK_S)

    async def _held(self) -> list[int] | None:
        """Ports that somebody else holds; None: not known, and somebody's rules may be in use."""
        try:
            return await in_thread(lambda: held_by_others(self._ports))
        except OSError as error:
            _log.error("ports_not_looked_at", error=str(error))
            return None

    async def _clean(self) -> bool:
        """Remove everything; again if something changed meanwhile, or is locked."""
        problems: list[str] = []
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(_RETRY_S)
            found = await in_thread(leftovers.find)
            problems = await in_thread(lambda: self._remove(found))
            left = await in_thread(leftovers.find)
            self._found(left.counts)
            if not (problems or left.counts):
                _log.info("leftovers_removed", **found.counts, kept=left.kept)
                return True
            _log.warning("leftovers_stay", **left.counts, problems=problems, attempt=attempt + 1)
        _log.error("takeover_given_up", problems=problems)
        return False

    def _remove(self, found: Leftovers) -> list[str]:
        return leftovers.remove(found, self._accepts_needed, self._spared)

    async def _look_again(self) -> None:
        found = await in_thread(leftovers.find)
        self._found(found.counts)
        if found.counts:
            _log.error("leftovers_came_back", **found.counts, hint="is a kube-proxy still running?")


def spared_by(config: Config) -> tuple[str, ...]:
    """CIDRs whose virtual servers are not kube-proxy's: ipvs.excludeCIDRs."""
    return tuple(config.document.get("ipvs", {}).get("excludeCIDRs") or ())
