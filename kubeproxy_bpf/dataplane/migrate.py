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
from typing import Callable, Iterable, Mapping

import structlog

from kubeproxy_bpf.dataplane.convert import Conversion, NotConvertible, Side, conversion
from kubeproxy_bpf.dataplane.owned import Owned, RunningMap
from kubeproxy_bpf.libbpf import BpfMap, Btf, LibbpfError, MapType, UpdateFlag
from kubeproxy_bpf.libbpf.btf import STRUCT
from kubeproxy_bpf.libbpf.btftypes import Type

_log = structlog.get_logger(__name__)

_BY_PROGRAMS = ("kpb_flows", "kpb_affinity", "kpb_tcp_origin", "kpb_sock_flows")
_SHARED = (*_BY_PROGRAMS, "kpb_flow_queue", "kpb_sock_state", "kpb_fragments")
_READABLE = (MapType.HASH, MapType.LRU_HASH, MapType.LPM_TRIE, MapType.ARRAY)
_BATCH = 4096


class Past:
    """The maps that running programs use, where new ones take their place."""

    def __init__(self, maps: Mapping[str, RunningMap], types: Btf) -> None:
        """``types`` are those of the new maps."""
        self._maps = dict(maps)
        self._types = types

    def share(self, fits: Callable[[str, RunningMap], bool]) -> dict[str, BpfMap]:
        """Give away the maps that fit as they are; the caller closes them."""
        fitting = [name for name in _SHARED if name in self._maps and fits(name, self._maps[name])]
        return {name: self._maps.pop(name).map for name in fitting}

    def copy_plan(self, new: Mapping[str, BpfMap]) -> None:
        """Copy what user space wrote."""
        self._copy_all(new, self._maps.keys() - set(_SHARED), UpdateFlag.ANY)

    def copy_state(self, new: Mapping[str, BpfMap], again: bool = False) -> None:
        """Copy what programs wrote: before they are exchanged, and what is missing after it."""
        flag = UpdateFlag.NOEXIST if again else UpdateFlag.ANY
        self._copy_all(new, self._maps.keys() & set(_BY_PROGRAMS), flag)

    def close(self) -> None:
        """Let go of the old maps."""
        for running in self._maps.values():
            running.map.close()
        self._maps.clear()

    def _copy_all(self, new: Mapping[str, BpfMap], names: set[str], flag: UpdateFlag) -> None:
        for name in sorted(names & new.keys()):
            old = self._maps[name]
            if old.map.type not in _READABLE or new[name].type not in _READABLE:
                continue
            try:
                count = copy(old.map, new[name], *self._conversions(name), flag)
            except (NotConvertible, LibbpfError) as error:
                _log.warning("map_not_migrated", map=name, error=str(error))
            else:
                _log.info("map_migrated", map=name, entries=count)

    def _conversions(self, name: str) -> tuple[Conversion, Conversion]:
        """Of keys and of values."""
        old, new = self._maps[name], self._types.maps[name]
        sizes = old.map.key_size, old.map.value_size
        key, value = (
            conversion(_before(old.types, part, size), Side(self._types, part))
            for part, size in zip(new, sizes)
            if part is not None
        )
        return key, value


def find_past(owned: Owned, names: Iterable[str], types: Btf) -> Past | None:
    """What programs of ours run on, whatever its layout; None if there are none."""
    running: dict[str, RunningMap] = {}

    def remember(name: str, found: RunningMap) -> bool:
        running[name] = found
        return True

    owned.maps(names, remember)
    return Past(running, types) if running else None


def copy(
    old: BpfMap, new: BpfMap, keys: Conversion, values: Conversion, flag: int = UpdateFlag.ANY
) -> int:
    """Copy entries until there is no more room; tell how many.

    With NOEXIST only those that are not there; what an array holds is always there.
    """
    done = 0
    for raw_keys, raw_values, count in old.batches(_BATCH):
        if not any(raw_values) and old.type == MapType.ARRAY:
            continue
        made = keys.apply(raw_keys, count), values.apply(raw_values, count)
        try:
            done += _put(new, *made, count, flag)
        except LibbpfError as error:
            if error.errno not in (errno.E2BIG, errno.ENOSPC, errno.ENOENT):
                raise
            _log.warning("migration_cut_short", map=new.name, room=new.max_entries)
            break
    return done


def _put(new: BpfMap, keys: bytes, values: bytes, count: int, flag: int) -> int:
    if flag == UpdateFlag.ANY:
        return new.update_batch(keys, values, count)
    done = 0
    for i in range(count):
        key = keys[i * new.key_size : (i + 1) * new.key_size]
        value = values[i * new.value_size : (i + 1) * new.value_size]
        try:
            new.update(key, value, flag)
            done += 1
        except LibbpfError as error:
            if error.errno != errno.EEXIST:
                raise
    return done


def _before(types: Btf, part: Type, size: int) -> Side:
    """The old layout of what ``part`` is now."""
    if part.kind != STRUCT:
        return Side(types, part._replace(size=size))
    if part.name not in types.structs:
        raise NotConvertible(f"there was no {part.name}")
    return Side(types, Type(STRUCT, part.name, types.structs[part.name].size))
