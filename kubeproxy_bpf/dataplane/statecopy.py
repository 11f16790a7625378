# SPDX-License-Identifier: Apache-2.0
"""Copies what programs write from a map that is going out of use to the one that takes its place.

The programs of before go on writing while that is done. So there is a first copy of everything,
and then only what is missing, as often as one likes: before the programs are exchanged and after
it. What the programs of the new map have written there by then wins. Called by ``migrate``.
"""

from __future__ import annotations

import errno
import sys
from typing import Callable, Iterable, Iterator, NamedTuple

import structlog

from kubeproxy_bpf.dataplane.convert import Conversion
from kubeproxy_bpf.libbpf import BpfMap, LibbpfError, MapType, UpdateFlag

_log = structlog.get_logger(__name__)

_BATCH = 4096
Entry = tuple[bytes, bytes]
"""Key and value."""


class Form(NamedTuple):
    """What makes new keys and values of old ones."""

    keys: Conversion
    values: Conversion


class StateCopy:
    """Of one map."""

    def __init__(self, old: BpfMap, new: BpfMap, form: Form) -> None:
        self.old = old
        self.new = new
        self.form = form
        # Digests alone: half a million keys would take more memory than all the rest.
        self.seen: set[int] = set()
        """Digests of what was copied, or had no room then: if it is gone since, it stays so."""

    def first(self) -> int:
        """Copy what there is; tell how many."""
        return copy(self.old, self.new, self.form, self._see, self.room())

    def missing(self) -> int:
        """Copy what was not seen before, where the new map has none; tell how many."""
        done = 0
        for group in self.groups(dict(self._unseen())):
            try:
                done += self._put_group(group)
            except LibbpfError as error:
                check_full(error)
                _log.warning("migration_cut_short", map=self.new.name, room=self.new.max_entries)
                break
        return done

    def room(self) -> int | None:
        """How many entries to copy at first, at most; None: as many as fit."""
        return None

    def groups(self, missing: dict[bytes, bytes]) -> Iterator[list[Entry]]:
        """What of the missing entries belongs together, all or none of it."""
        for entry in missing.items():
            yield [entry]

    def digest(self, key: bytes, value: bytes) -> int:
        """What tells an entry from others, and from one that took its place."""
        return hash(key)

    def put(self, key: bytes, value: bytes) -> None:
        """An entry that is missing; raises ``LibbpfError``."""
        self.new.update(key, value, UpdateFlag.NOEXIST)

    def _put_group(self, group: Iterable[Entry]) -> int:
        """All of them, or none where the programs have one of them already, or there is no room."""
        done: list[Entry] = []
        try:
            for entry in group:
                self.put(*entry)
                done.append(entry)
        except LibbpfError as error:
            for key, _ in done:
                self.new.delete(key)
            if error.errno != errno.EEXIST:
                raise
            return 0
        self.seen.update(self.digest(*entry) for entry in done)
        return len(done)

    def _see(self, keys: bytes, values: bytes, count: int) -> None:
        entries = zip(cut(keys, count, self.new.key_size), cut(values, count, self.new.value_size))
        self.seen.update(self.digest(*entry) for entry in entries)

    def _unseen(self) -> Iterator[Entry]:
        for old_keys, old_values, count in self.old.batches(_BATCH):
            keys = cut(self.form.keys.apply(old_keys, count), count, self.new.key_size)
            values = cut(self.form.values.apply(old_values, count), count, self.new.value_size)
            for entry in zip(keys, values):
                if self.digest(*entry) not in self.seen:
                    yield entry


def copy(
    old: BpfMap,
    new: BpfMap,
    form: Form,
    remember: Callable[[bytes, bytes, int], None] | None = None,
    room: int | None = None,
) -> int:
    """Copy entries, ``room`` at most, until there is no more room; tell how many.

    ``remember`` gets batches of all new keys and values, also of what was not copied.
    """
    done, left = 0, sys.maxsize if room is None else room
    for old_keys, old_values, count in old.batches(_BATCH):
        if old.type == MapType.ARRAY and not any(old_values):
            continue
        keys, values = form.keys.apply(old_keys, count), form.values.apply(old_values, count)
        if remember:
            # Also what finds no room: it is not what the programs make after this.
            remember(keys, values, count)
        taken = _put_batch(new, keys, values, min(count, left))
        done += taken
        left = left - taken if taken == count else 0
    if not left:
        _log.warning("migration_cut_short", map=new.name, room=done)
    return done


def cut(raw: bytes, count: int, size: int) -> Iterator[bytes]:
    """Elements that lie one after the other."""
    return (raw[start : start + size] for start in range(0, count * size, size))


def _put_batch(new: BpfMap, keys: bytes, values: bytes, count: int) -> int:
    """Write the first of a batch; return how many: fewer, if the map is full."""
    if not count:
        return 0
    keys, values = keys[: count * new.key_size], values[: count * new.value_size]
    try:
        return new.update_batch(keys, values, count)
    except LibbpfError as error:
        check_full(error)
        return getattr(error, "done", 0)


def check_full(error: LibbpfError) -> None:
    """A full map is no failure: flows that found no room end, as they do in a full table. Nor is
    one that found no memory: the flow table takes it as it fills."""
    if error.errno not in (errno.E2BIG, errno.ENOSPC, errno.ENOENT, errno.ENOMEM):
        raise error
