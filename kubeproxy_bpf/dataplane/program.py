# SPDX-License-Identifier: Apache-2.0
"""Keeps the dataplane as the model wants it: plans, applies, waits out graces, tries again.

``Programmer`` joins the pure planner and whatever executes plans (the writer, or the fake). The
sync loop awaits ``start`` once, then ``apply`` for each step of the model. What a plan freed is
released after a grace period in the background; whatever that makes possible (service ports that
found no room) is done at once and told through ``report``. It does not decide when to sync, and it
does not log. An exception out of ``apply`` means that planner and maps may differ: start anew.
"""

from __future__ import annotations

import asyncio
from typing import Callable, Iterable, Iterator, Mapping, NamedTuple, Sequence

from kubeproxy_bpf.dataplane.protocol import Dataplane
from kubeproxy_bpf.libbpf import LibbpfError
from kubeproxy_bpf.model.types import Changes, ServicePortId
from kubeproxy_bpf.plan.audit import audit, recheck
from kubeproxy_bpf.plan.findings import Finding, Kind
from kubeproxy_bpf.plan.planner import NOTHING, Planner
from kubeproxy_bpf.plan.writes import Capacity, Failed

FINDINGS_MAX = 4096
_PAUSE_S = 0.002
_BATCH = 128
_BATCH_OF_GRACES = 8


class Outcome(NamedTuple):
    """What became of some changes."""

    writes: int
    """Entries written or removed."""
    failed: tuple[Failed, ...]
    """Refused by the kernel; the next ``apply`` repeats them."""
    unfit: tuple[tuple[ServicePortId, str], ...]
    """All that have no room, and in which map; tried again by themselves when room appears."""
    vips_unfit: tuple[bytes, ...]
    lost: tuple[tuple[int, int], ...]
    """(service index, backend id) of UDP that belong together no longer: sockets to abort."""
    unreached: tuple[tuple[bytes, ServicePortId], ...] = ()
    """Which service ports are not served at which of ``vips_unfit``."""

    @property
    def clean(self) -> bool:
        """Whether everything is programmed."""
        return not (self.failed or self.unfit or self.vips_unfit)


class Programmer:
    """The only user of a planner and its dataplane."""

    def __init__(
        self, dataplane: Dataplane, report: Callable[[Outcome], None] = lambda outcome: None
    ) -> None:
        self._dataplane = dataplane
        self._planner = Planner(dataplane.capacity)
        self._report = report
        self.owners: Mapping[int, ServicePortId] = {}
        """Who has which service index, as far as it is programmed; replaced, never changed."""
        self._lock = asyncio.Lock()
        self._tokens: list[int] = []
        self._releasing: asyncio.Task[None] | None = None

    @property
    def planner(self) -> Planner:
        """For questions: who owns a frontend, who waits for room."""
        return self._planner

    @property
    def used(self) -> Capacity:
        """Entries in use of each map that the planner fills."""
        return self._planner.used

    @property
    def capacity(self) -> Capacity:
        """Entries of each of these maps."""
        return self._dataplane.capacity

    async def start(self) -> None:
        """Take over what is programmed. Nothing is removed before the first complete changes."""
        async with self._lock:
            dump = await self._dataplane.dump()
            self._planner = Planner.restore(self._dataplane.capacity, dump)
            self.owners = {}
            await self._dataplane.grace()
            self._planner.release(0)

    async def apply(self, changes: Changes = NOTHING) -> Outcome:
        """Program changes, or with none given repeat what failed; then report the outcome."""
        if self._releasing is not None and self._releasing.done():
            self._releasing.result()  # an error of the background is ours
        async with self._lock:
            outcome = await self._apply(changes)
        self._report(outcome)
        return outcome

    @property
    def lingering(self) -> Mapping[bytes, int]:
        """A copy of ``Planner.lingering``: addresses that stay for the sake of flows alone."""
        return dict(self._planner.lingering)

    async def forget(self, addresses: Mapping[bytes, int]) -> Outcome:
        """Remove these of ``lingering``, to which no flow leads any more."""
        async with self._lock:
            self._planner.forget(addresses)
            outcome = await self._apply(NOTHING)
        self._report(outcome)
        return outcome

    async def audit(self) -> list[Finding]:
        """Compare the maps with what is planned, and return what differs; writes nothing.

        In steps of some milliseconds, between which the loop and other plans go on. Ends early
        where there is more than one repair should take on.
        """
        found: list[Finding] = []
        steps = audit(self._planner, self._dataplane.held)
        while len(found) < FINDINGS_MAX:
            async with self._lock:
                step = next(steps, None)
            if step is None:
                break
            found += step
            await asyncio.sleep(_PAUSE_S)
        return found

    async def repair(self, findings: Sequence[Finding]) -> list[Finding]:
        """Write anew what the findings name, some at a time; return those that remain."""
        # Elements that somebody removed may be read until now, and are taken again below.
        await self._dataplane.grace()
        remaining: list[Finding] = []
        for batch in _batches(findings):
            async with self._lock:
                remaining += await self._repair(batch)
        listed = [each for each in findings if _is_listed(each)]
        async with self._lock:
            return remaining + self._remaining(listed)

    async def settled(self) -> None:
        """Return when nothing waits for a grace period."""
        while self._releasing is not None and not self._releasing.done():
            await self._releasing

    async def close(self) -> None:
        """Stop waiting for graces; what is programmed stays."""
        if self._releasing is not None:
            self._releasing.cancel()
            await asyncio.gather(self._releasing, return_exceptions=True)

    async def _repair(self, batch: Sequence[Finding]) -> list[Finding]:
        """Write anew what is still true of a batch; return what remains, as far as that is cheap.

        To ask a trie for some keys is to read all of it. So its findings are taken for true, which
        costs writes in vain at worst, and are looked at once, when all of them are written.
        """
        listed = [each for each in batch if _is_listed(each)]
        asked = [each for each in batch if not _is_listed(each)]
        try:
            true = recheck(self._planner, self._dataplane.held, asked)
        except LibbpfError:  # no memory for an answer, say; the next audit finds it again
            return list(batch)
        self._planner.doubt(true + listed)
        outcome = await self._apply(NOTHING)
        self._report(outcome)
        refused = {(write.map, write.key) for write in outcome.failed}
        remaining = [each for each in true + listed if each[:2] in refused]
        return remaining + self._remaining(true)

    def _remaining(self, findings: Sequence[Finding]) -> list[Finding]:
        """Those that are true now; all where the kernel does not tell."""
        try:
            return recheck(self._planner, self._dataplane.held, findings)
        except LibbpfError:
            return list(findings)

    async def _apply(self, changes: Changes) -> Outcome:
        plan = self._planner.plan(changes)
        applied = await self._dataplane.apply(plan)
        self._planner.settle(plan, applied.failed)
        self.owners = dict(self._planner.owners)
        if plan.frees:
            self._tokens.append(plan.token)
            if self._releasing is None or self._releasing.done():
                self._releasing = asyncio.create_task(self._release())
        return Outcome(
            applied.writes,
            applied.failed,
            tuple(plan.unfit),
            tuple(plan.vips_unfit),
            tuple(plan.lost),
            tuple(_served_at(plan.vips_unfit, self._planner)) if plan.vips_unfit else (),
        )

    async def _release(self) -> None:
        """Wait one grace period for all plans that ended before it, as long as there are any."""
        while self._tokens:
            tokens, self._tokens = self._tokens, []
            await self._dataplane.grace()
            async with self._lock:
                for token in tokens:
                    self._planner.release(token)
                if not self._planner.owes:
                    continue
                outcome = await self._apply(NOTHING)
            self._report(outcome)


def _is_listed(finding: Finding) -> bool:
    return finding.map == "source_ranges"


def _batches(findings: Sequence[Finding]) -> Iterator[Sequence[Finding]]:
    """Parts of a repair, none of which holds other plans off for long.

    A frontend that is replaced waits for a grace period of its own.
    """
    waits = [f for f in findings if f.map == "frontends" and f.kind == Kind.DIFFERS]
    others = [f for f in findings if f.map != "frontends" or f.kind != Kind.DIFFERS]
    for part, size in ((others, _BATCH), (waits, _BATCH_OF_GRACES)):
        for first in range(0, len(part), size):
            yield part[first : first + size]


def _served_at(
    addresses: Iterable[bytes], planner: Planner
) -> Iterator[tuple[bytes, ServicePortId]]:
    wanted = frozenset(addresses)
    for index, port in planner.owners.items():
        state = planner.state(index)
        for spec in state.frontends if state is not None else ():
            if spec.address in wanted:
                yield spec.address, port
