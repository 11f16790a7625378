# SPDX-License-Identifier: Apache-2.0
"""Mirror of the hash map ``vips``: flags by address, and the addresses that linger.

The packet path finds a flow only through an address that stands in the map. So the address of a
Service that went stays as one that *lingers*: no frontend leads there and nothing new is served,
but established connections go on [A13]. It goes for good when somebody says that no flow leads
there any more (``forget``), and before that where it takes the room of a VIP. Called by the planner
alone.
"""

from __future__ import annotations

from itertools import islice
from operator import itemgetter
from typing import Container, Iterable, Mapping

from kubeproxy_bpf.plan.records import VipFlags
from kubeproxy_bpf.plan.writes import Plan

_LINGER = int(VipFlags.LINGER)
_ON_DEVICE = int(VipFlags.ON_DEVICE)
_SERVED = int(VipFlags.CLUSTER_IP | VipFlags.EXTERNAL)


class VipTable:
    """Flags by address. Without ``lingers`` an address that is no VIP any more goes at once."""

    def __init__(self, max_entries: int, lingers: bool = False) -> None:
        self.entries: dict[bytes, int] = {}
        self.lingering: dict[bytes, int] = {}
        """Address to the token of the plan since which it lingers, the oldest first."""
        self._max_entries = max_entries
        self._lingers = lingers
        self._forgotten: set[bytes] = set()
        self._waiting: dict[bytes, int] = {}
        self._refused: set[bytes] = set()

    @property
    def dirty(self) -> bool:
        """Whether there is something to write although nothing changed."""
        return bool(self._refused or self._forgotten)

    @property
    def waiting(self) -> bool:
        """Whether some address found no room."""
        return bool(self._waiting)

    @property
    def unwritten(self) -> Container[bytes]:
        """Addresses whose last write was refused."""
        return self._refused

    def restore(self, entries: Mapping[bytes, int]) -> None:
        """Start from what the map holds; the canary is the loader's and stays out of this."""
        self.entries = {a: flags for a, flags in entries.items() if not flags & VipFlags.CANARY}
        self.lingering = {a: 0 for a, flags in self.entries.items() if flags & _LINGER}

    def forget(self, addresses: Mapping[bytes, int]) -> None:
        """No flow leads to these any more; they are named as in ``lingering`` of that time.

        One that was a VIP again in the meantime is not meant.
        """
        lingering = self.lingering
        self._forgotten.update(a for a, token in addresses.items() if lingering.get(a) == token)

    def plan(self, vips: Mapping[bytes, int], complete: bool, plan: Plan) -> bool:
        """Add the writes that lead to these flags; tell whether room was made."""
        wanted = {**({} if complete else self._waiting), **vips}
        self._waiting.clear()
        for address, flags in wanted.items():
            if flags:
                self._put(address, flags, plan)
        given_up = [address for address, flags in wanted.items() if not flags]
        if complete:
            given_up += [address for address in self.entries if address not in wanted]
        self._give_up(given_up, plan)
        self._repeat(plan)
        plan.vips_replaced.sort(key=itemgetter(1))
        return bool(plan.vips_removed)

    def refused(self, address: bytes) -> None:
        """The kernel refused a write of this address: the next plan repeats it."""
        self._refused.add(address)

    def _put(self, address: bytes, flags: int, plan: Plan) -> None:
        old = self.entries.get(address)
        if old == flags:
            return
        if old is None and len(self.entries) >= self._max_entries:
            self._waiting[address] = flags
            return
        self.lingering.pop(address, None)
        if old is None and address not in self._refused:
            self.entries[address] = flags
            plan.vips_added.append((address, flags))
        else:
            self._write_again(address, flags, plan)

    def _give_up(self, addresses: Iterable[bytes], plan: Plan) -> None:
        """Let addresses linger or go, and make room for those that wait."""
        staying: list[bytes] = []
        removed: dict[bytes, None] = {}
        for address in filter(self.entries.__contains__, addresses):
            if self._may_linger(address):
                self.lingering.setdefault(address, plan.token)
                staying.append(address)
            else:
                self.lingering.pop(address, None)
                removed[address] = None
        removed.update(dict.fromkeys(islice(self.lingering, len(self._waiting))))
        plan.vips_unfit += islice(self._waiting, len(removed), None)
        removed.update(dict.fromkeys(self._forgotten.intersection(self.lingering)))
        self._forgotten.clear()
        for address in staying:
            if address not in removed and self.entries[address] != _LINGER:
                self._write_again(address, _LINGER, plan)
        for address in removed:
            self._remove(address, plan)

    def _write_again(self, address: bytes, flags: int, plan: Plan) -> None:
        self.entries[address] = flags
        self._refused.discard(address)
        plan.vips_replaced.append((address, flags))

    def _remove(self, address: bytes, plan: Plan) -> None:
        del self.entries[address]
        self.lingering.pop(address, None)
        self._refused.discard(address)
        plan.vips_removed.append(address)

    def _may_linger(self, address: bytes) -> bool:
        flags = self.entries[address]
        return self._lingers and bool(flags & (_SERVED | _LINGER)) and not flags & _ON_DEVICE

    def _repeat(self, plan: Plan) -> None:
        for address in sorted(self._refused):
            flags = self.entries.get(address)
            if flags is None:
                plan.vips_removed.append(address)
            else:
                plan.vips_replaced.append((address, flags))
        self._refused.clear()
