# SPDX-License-Identifier: Apache-2.0
"""Takes over what maps of another layout or size hold, so that no connection ends with them.

The programs that run go on with the old maps until others take their place. Three kinds of maps:

* what user space writes is copied when the new maps are made, before anything reads them: then all
  ids mean the same in both sets;
* what programs write is copied right before the programs are exchanged, and what came in between
  once more after it (``statecopy``, ``flowcopy``); the new maps' own entries win;
* of what cannot be read (the storage of sockets, the queue of flows) and of what programs write,
  maps whose own layout is still the same are not copied but shared; flows only with their queue.

Everything else starts empty: counters, and what ``convert`` cannot convert. Flows then end or are
made anew as after a loss of the table. Called by ``loader``, and by ``instance`` around the
exchange; runs in its threads.
"""

from __future__ import annotations

from typing import Callable, Iterable, Iterator, Mapping

import structlog

from kubeproxy_bpf.dataplane.convert import NotConvertible, Side, conversion
from kubeproxy_bpf.dataplane.flowcopy import FlowCopy
from kubeproxy_bpf.dataplane.owned import Owned, RunningMap
from kubeproxy_bpf.dataplane.statecopy import Form, StateCopy, copy
from kubeproxy_bpf.libbpf import BpfMap, Btf, LibbpfError, MapType
from kubeproxy_bpf.libbpf.btf import STRUCT
from kubeproxy_bpf.libbpf.btftypes import Type

_log = structlog.get_logger(__name__)

_FLOWS, _QUEUE = "kpb_flows", "kpb_flow_queue"
_BY_PROGRAMS = (_FLOWS, "kpb_affinity", "kpb_tcp_origin", "kpb_sock_flows")
_SHARED = (*_BY_PROGRAMS, _QUEUE, "kpb_sock_state", "kpb_fragments")
_READABLE = (MapType.HASH, MapType.LRU_HASH, MapType.LPM_TRIE, MapType.ARRAY)


class Past:
    """The maps that running programs use, where new ones take their place."""

    def __init__(self, maps: Mapping[str, RunningMap], types: Btf) -> None:
        """``types`` are those of the new maps."""
        self._maps = dict(maps)
        self._types = types
        self._shared: set[str] = set()
        self._copies: dict[str, StateCopy] = {}

    def share(self, fits: Callable[[str, RunningMap], bool]) -> dict[str, BpfMap]:
        """Give away the maps that fit as they are; the caller closes them."""
        fitting = [name for name in _SHARED if name in self._maps and fits(name, self._maps[name])]
        if _QUEUE not in fitting and _FLOWS in fitting:  # no room is made among flows outside of it
            fitting.remove(_FLOWS)
        self._shared.update(fitting)
        return {name: self._maps.pop(name).map for name in fitting}

    def copy_plan(self, new: Mapping[str, BpfMap]) -> None:
        """Copy what user space wrote."""
        for name in self._copyable(new, self._maps.keys() - set(_SHARED)):
            old = self._maps[name].map
            self._tell(name, lambda: copy(old, new[name], self._form(name)))

    def copy_state(self, new: Mapping[str, BpfMap], again: bool = False) -> None:
        """Copy what programs wrote: before they are exchanged, and what is missing after it.

        Also before it what is missing by then, as the first copy takes long: until they are all
        exchanged nobody knows what came after this.
        """
        for name in self._copyable(new, self._maps.keys() & set(_BY_PROGRAMS)):
            if not again:
                self._tell(name, lambda: self._copy_first(name, new))
            if name in self._copies:
                self._tell(name, self._copies[name].missing)

    def _copy_first(self, name: str, new: Mapping[str, BpfMap]) -> int:
        form = self._form(name)
        self._copies[name] = made = self._copy_of(name, new, form)
        return made.first()

    def _copy_of(self, name: str, new: Mapping[str, BpfMap], form: Form) -> StateCopy:
        old = self._maps[name].map
        if name != _FLOWS:
            return StateCopy(old, new[name], form)
        queue = None if _QUEUE in self._shared else new.get(_QUEUE)
        return FlowCopy(old, new[name], form, self._types, queue)

    def close(self) -> None:
        """Let go of the old maps."""
        for running in self._maps.values():
            running.map.close()
        self._maps.clear()
        self._copies.clear()

    def _copyable(self, new: Mapping[str, BpfMap], names: set[str]) -> Iterator[str]:
        for name in sorted(names & new.keys()):
            if self._maps[name].map.type in _READABLE and new[name].type in _READABLE:
                yield name

    def _tell(self, name: str, work: Callable[[], int]) -> None:
        try:
            count = work()
        except (NotConvertible, LibbpfError) as error:
            _log.warning("map_not_migrated", map=name, error=str(error))
        else:
            _log.info("map_migrated", map=name, entries=count)

    def _form(self, name: str) -> Form:
        old, new = self._maps[name], self._types.maps[name]
        sizes = old.map.key_size, old.map.value_size
        key, value = (
            conversion(_before(old.types, part, size), Side(self._types, part))
            for part, size in zip(new, sizes)
            if part is not None
        )
        return Form(key, value)


def find_past(owned: Owned, names: Iterable[str], types: Btf) -> Past | None:
    """What programs of ours run on, whatever its layout; None if there are none."""
    running: dict[str, RunningMap] = {}

    def remember(name: str, found: RunningMap) -> bool:
        running[name] = found
        return True

    owned.maps(names, remember)
    return Past(running, types) if running else None


def _before(types: Btf, part: Type, size: int) -> Side:
    """The old layout of what ``part`` is now."""
    if part.kind != STRUCT:
        return Side(types, part._replace(size=size))
    if part.name not in types.structs:
        raise NotConvertible(f"there was no {part.name}")
    return Side(types, Type(STRUCT, part.name, types.structs[part.name].size))
