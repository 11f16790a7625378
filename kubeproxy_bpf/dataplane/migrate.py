# SPDX-License-Identifier: Apache-2.0
"""Takes over what maps of another layout or size hold, so that no connection ends with them.

The programs that run go on with the old maps until others take their place. Three kinds of maps:

* what user space writes is copied when the new maps are made, before anything reads them: then all
  ids mean the same in both sets;
* what programs write is copied right before the programs are exchanged, and what came in between
  once more after it; the new maps' own entries win;
* of what cannot be read (the storage of sockets, the queue of flows) and of what programs write,
  maps whose own layout is still the same are not copied but shared.

Everything else starts empty: counters, and what ``convert`` cannot convert. Flows then end or are
made anew as after a loss of the table. Called by ``loader``, and by ``instance`` around the
exchange; runs in its threads.
"""

from __future__ import annotations

import errno
import sys
from typing import Callable, Collection, Iterable, Iterator, Mapping, NamedTuple

import structlog

from kubeproxy_bpf.dataplane.convert import Conversion, NotConvertible, Side, conversion
from kubeproxy_bpf.dataplane.flows import FlowTable
from kubeproxy_bpf.dataplane.owned import Owned, RunningMap
from kubeproxy_bpf.libbpf import BpfMap, Btf, LibbpfError, MapType, UpdateFlag
from kubeproxy_bpf.libbpf.btf import STRUCT
from kubeproxy_bpf.libbpf.btftypes import Type

_log = structlog.get_logger(__name__)

_BY_PROGRAMS = ("kpb_flows", "kpb_affinity", "kpb_tcp_origin", "kpb_sock_flows")
_SHARED = (*_BY_PROGRAMS, "kpb_flow_queue", "kpb_sock_state", "kpb_fragments")
_READABLE = (MapType.HASH, MapType.LRU_HASH, MapType.LPM_TRIE, MapType.ARRAY)
_BATCH = 4096


class Form(NamedTuple):
    """What makes new keys and values of old ones."""

    keys: Conversion
    values: Conversion


class Past:
    """The maps that running programs use, where new ones take their place."""

    def __init__(self, maps: Mapping[str, RunningMap], types: Btf) -> None:
        """``types`` are those of the new maps."""
        self._maps = dict(maps)
        self._types = types
        self._copied: dict[str, set[int]] = {}

    def share(self, fits: Callable[[str, RunningMap], bool]) -> dict[str, BpfMap]:
        """Give away the maps that fit as they are; the caller closes them."""
        fitting = [name for name in _SHARED if name in self._maps and fits(name, self._maps[name])]
        return {name: self._maps.pop(name).map for name in fitting}

    def copy_plan(self, new: Mapping[str, BpfMap]) -> None:
        """Copy what user space wrote."""
        self._copy_all(new, self._maps.keys() - set(_SHARED), copy)

    def copy_state(self, new: Mapping[str, BpfMap], again: bool = False) -> None:
        """Copy what programs wrote: before they are exchanged, and what is missing after it."""
        work = self._copy_missing if again else self._copy_first
        self._copy_all(new, self._maps.keys() & set(_BY_PROGRAMS), work)

    def _copy_first(self, old: BpfMap, new: BpfMap, form: Form) -> int:
        # Digests alone: half a million keys would take more memory than all the rest.
        copied = self._copied.setdefault(old.name, set())
        count = copy(old, new, form, copied.add, _room(old.name, new))
        if old.name == "kpb_flows" and count < len(copied):
            count -= FlowTable(new, self._types).remove_halves()
        return count

    def _copy_missing(self, old: BpfMap, new: BpfMap, form: Form) -> int:
        return copy_missing(old, new, form, self._copied.get(old.name, set()))

    def close(self) -> None:
        """Let go of the old maps."""
        for running in self._maps.values():
            running.map.close()
        self._maps.clear()

    def _copy_all(
        self,
        new: Mapping[str, BpfMap],
        names: set[str],
        work: Callable[[BpfMap, BpfMap, Form], int],
    ) -> None:
        for name in sorted(names & new.keys()):
            old = self._maps[name].map
            if old.type not in _READABLE or new[name].type not in _READABLE:
                continue
            try:
                count = work(old, new[name], self._form(name))
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


def _room(name: str, new: BpfMap) -> int | None:
    """How many entries to copy at most; None: as many as fit.

    The queue by which programs find flows that are over does not know those that were copied: a
    table full of them would refuse new ones until a sweep has been through it.
    """
    return new.max_entries - new.max_entries // 8 if name == "kpb_flows" else None


def copy(
    old: BpfMap,
    new: BpfMap,
    form: Form,
    remember: Callable[[int], None] | None = None,
    room: int | None = None,
) -> int:
    """Copy entries, ``room`` at most, until there is no more room; tell how many.

    ``remember`` gets the digests of all keys, also of what was not copied.
    """
    done, left = 0, sys.maxsize if room is None else room
    for keys, values, count in old.batches(_BATCH):
        if remember:
            # Also of what finds no room: it is not what the programs make after this.
            for key in _cut(keys, count, old.key_size):
                remember(hash(key))
        if old.type == MapType.ARRAY and not any(values):
            continue
        taken = _put(new, form, keys, values, min(count, left))
        done += taken
        left = left - taken if taken == count else 0
    if not left:
        _log.warning("migration_cut_short", map=new.name, room=done)
    return done


def _put(new: BpfMap, form: Form, keys: bytes, values: bytes, count: int) -> int:
    """Write a batch; return how many elements: fewer, if the map is full."""
    if not count:
        return 0
    try:
        return new.update_batch(
            form.keys.apply(keys, count), form.values.apply(values, count), count
        )
    except LibbpfError as error:
        _check_full(error)
        return getattr(error, "done", 0)


def copy_missing(old: BpfMap, new: BpfMap, form: Form, copied: Collection[int]) -> int:
    """Copy entries that were not copied before, where the new map has none; tell how many."""
    done = 0
    for keys, values, count in old.batches(_BATCH):
        pairs = zip(_cut(keys, count, old.key_size), _cut(values, count, old.value_size))
        for key, value in pairs:
            if hash(key) in copied:
                continue
            try:
                new.update(form.keys.apply(key, 1), form.values.apply(value, 1), UpdateFlag.NOEXIST)
                done += 1
            except LibbpfError as error:
                if error.errno == errno.EEXIST:
                    continue
                _check_full(error)
                _log.warning("migration_cut_short", map=new.name, room=new.max_entries)
                return done
    return done


def _cut(raw: bytes, count: int, size: int) -> Iterator[bytes]:
    return (raw[start : start + size] for start in range(0, count * size, size))


def _check_full(error: LibbpfError) -> None:
    """A full map is no failure: flows that found no room end, as they do in a full table."""
    if error.errno not in (errno.E2BIG, errno.ENOSPC, errno.ENOENT):
        raise error


def _before(types: Btf, part: Type, size: int) -> Side:
    """The old layout of what ``part`` is now."""
    if part.kind != STRUCT:
        return Side(types, part._replace(size=size))
    if part.name not in types.structs:
        raise NotConvertible(f"there was no {part.name}")
    return Side(types, Type(STRUCT, part.name, types.structs[part.name].size))
