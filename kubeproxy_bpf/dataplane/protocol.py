# SPDX-License-Identifier: Apache-2.0
"""What executes plans: the promise that the writer and the fake both keep."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from kubeproxy_bpf.plan.held import Held
from kubeproxy_bpf.plan.writes import Capacity, Dump, Failed, Plan


class Applied(NamedTuple):
    """The outcome of a plan."""

    failed: tuple[Failed, ...] = ()
    writes: int = 0
    """Entries written or removed; a run of slots counts as one."""


class Dataplane(Protocol):
    """Maps that programs read. One caller at a time for ``apply``; ``grace`` may run beside it."""

    @property
    def capacity(self) -> Capacity:
        """Entries of each map."""

    async def apply(self, plan: Plan) -> Applied:
        """Execute a plan in order; a write that is refused does not stop those after it."""

    async def dump(self) -> Dump:
        """Read back all maps."""

    @property
    def held(self) -> Held:
        """The maps, for reading in parts while no plan is executed."""

    async def grace(self) -> None:
        """Return when no program can hold anything that it read before this call."""
