# SPDX-License-Identifier: Apache-2.0
"""What each object claims, owns and was last given out as.

Remembers just enough to answer two questions when an object was compiled again: whose frontends
change hands, and is the result different from the last one. Decides nothing about Services. Called
by ``cluster``, which owns the one instance.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple

from kubeproxy_bpf.model.claims import Claim, Claims, Key, claim_of
from kubeproxy_bpf.model.desired import Ports
from kubeproxy_bpf.model.problems import MOST, the_first
from kubeproxy_bpf.model.types import Desired, FrontendSpec, Problem, ServicePortId
from kubeproxy_bpf.model.vips import VipTable

Given = dict[ServicePortId, Desired | None]


class Source(NamedTuple):
    """An object that service ports come from."""

    kind: str
    """"service" or "pod", as in ServicePortId."""
    namespace: str
    name: str


class Compiled(NamedTuple):
    """An object, compiled on its own; its frontends may be contested."""

    created: str
    ports: Ports
    problems: tuple[Problem, ...]


class _PortState(NamedTuple):
    """What is remembered of a service port; its expanded Desired would be too much to keep."""

    id: ServicePortId
    claimed: tuple[FrontendSpec, ...]
    digest: int | None
    """Hash of the Desired last given out, None when there is none. It takes a change for none with
    a chance of 1 in 2^64, and nobody can aim for it: hashes of bytes are keyed per process."""


class _State(NamedTuple):
    """What is remembered of a source."""

    created: str = ""
    ports: tuple[_PortState, ...] = ()
    problems: tuple[Problem, ...] = ()
    lost: frozenset[Key] = frozenset()
    """Frontends that others own."""

    @property
    def claimed(self) -> list[tuple[ServicePortId, tuple[FrontendSpec, ...]]]:
        return [(port.id, port.claimed) for port in self.ports]

    def frontends(self) -> Iterator[FrontendSpec]:
        for port in self.ports:
            yield from port.claimed

    def claims(self) -> Iterator[tuple[Key, Claim]]:
        for port in self.ports:
            for spec in port.claimed:
                yield claim_of(spec, self.created, port.id)


_NOTHING = _State()


class Ledger:
    """Claims, owners and digests of all sources."""

    def __init__(self, vips: VipTable) -> None:
        self._states: dict[Source, _State] = {}
        self._claims = Claims()
        self._vips = vips

    def settle(self, source: Source, compiled: Compiled) -> set[Source]:
        """Bring the claims of a source up to date; return whose frontends changed hands."""
        before = self._states.get(source, _NOTHING)
        claimed = [(port_id, desired.frontends) for port_id, desired in compiled.ports.items()]
        if before.created == compiled.created and before.claimed == claimed:
            return set()
        after = _State(
            compiled.created, _port_states(before, compiled), before.problems, before.lost
        )
        self._vips.add(after.frontends())
        self._vips.remove(before.frontends())
        old, new = set(before.claims()), set(after.claims())
        moved = {self._claims.remove(*claim) for claim in old - new}
        moved |= {self._claims.add(*claim) for claim in new - old}
        self._states[source] = after
        return {Source(i.source, i.namespace, i.name) for i in moved if i is not None}

    def give_out(
        self, source: Source, compiled: Compiled, everything: bool, given: Given
    ) -> list[Problem]:
        """Add to ``given`` what changed of a source; return the problems that it did not have."""
        before = self._states.get(source, _NOTHING)
        digests = {port.id: port.digest for port in before.ports}
        lost: list[tuple[Key, ServicePortId]] = []
        ports = []
        for port_id, desired in compiled.ports.items():
            owned = self._owned(port_id, desired.frontends, lost)
            digest = None
            if owned:
                if len(owned) != len(desired.frontends):
                    desired = desired._replace(frontends=owned)
                digest = hash(desired)
            last = digests.pop(port_id, None)
            if digest is not None and (everything or digest != last):
                given[port_id] = desired
            elif digest is None and last is not None:
                given[port_id] = None
            ports.append(_PortState(port_id, compiled.ports[port_id].frontends, digest))
        given.update((port_id, None) for port_id, last in digests.items() if last is not None)
        after = _State(
            compiled.created, tuple(ports), compiled.problems, frozenset(key for key, _ in lost)
        )
        self._keep(source, after)
        fresh = [problem for problem in after.problems if problem not in before.problems]
        losses = [loss for loss in lost if loss[0] not in before.lost]
        named = [self._claims.problem_of(*loss) for loss in losses[: MOST + 1]]
        return [*fresh, *the_first(named, len(losses))]

    def problems(self) -> Iterator[Problem]:
        yield from self._claims.problems()
        for state in self._states.values():
            yield from state.problems

    def _owned(
        self,
        port_id: ServicePortId,
        frontends: tuple[FrontendSpec, ...],
        lost: list[tuple[Key, ServicePortId]],
    ) -> tuple[FrontendSpec, ...]:
        mine = [self._claims.owns(spec[:3], port_id) for spec in frontends]
        if all(mine):
            return frontends
        lost += [(spec[:3], port_id) for spec, is_mine in zip(frontends, mine) if not is_mine]
        return tuple(spec for spec, is_mine in zip(frontends, mine) if is_mine)

    def _keep(self, source: Source, state: _State) -> None:
        if state.ports or state.problems:
            self._states[source] = state
        else:
            self._states.pop(source, None)


def _port_states(before: _State, compiled: Compiled) -> tuple[_PortState, ...]:
    """The claims of now with the digests of before; ``give_out`` has to know what is gone too."""
    digests = {port.id: port.digest for port in before.ports}
    states = [
        _PortState(port_id, desired.frontends, digests.pop(port_id, None))
        for port_id, desired in compiled.ports.items()
    ]
    return (*states, *(_PortState(port_id, (), digest) for port_id, digest in digests.items()))
