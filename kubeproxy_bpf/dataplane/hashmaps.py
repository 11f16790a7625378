# SPDX-License-Identifier: Apache-2.0
"""Hash maps and tries that user space writes, with records for keys and values.

Written in batches, read whole, in parts, or by key. What the kernel refuses is returned with its
key. Bound to their structs by ``maps``.
"""

from __future__ import annotations

import errno
from typing import Any, Generic, Iterable, Iterator, Sequence, TypeVar

from kubeproxy_bpf.errors import MapFull
from kubeproxy_bpf.libbpf import LibbpfError
from kubeproxy_bpf.libbpf.abc import Map
from kubeproxy_bpf.plan.writes import Failed

K = TypeVar("K")
V = TypeVar("V")

_FULL = (errno.E2BIG, errno.ENOSPC, errno.ENOMEM)
_PART = 1024


class HashMap(Generic[K, V]):
    """A map of encoded keys and values.

    Errors are returned with their key, not raised.
    """

    def __init__(self, name: str, source: Map, key: Any, value: Any) -> None:
        self.name = name
        self._source = source
        self._key = key
        self._value = value

    def put(self, entries: Sequence[tuple[K, V]]) -> list[Failed]:
        """Insert or replace; in one batch, and one by one from where that was refused."""
        keys = self._key.encode_all([key for key, _ in entries])
        values = self._value.encode_all([value for _, value in entries])
        try:
            self._source.update_batch(keys, values, len(entries))
        except LibbpfError:  # all of it is idempotent, so none of it is lost by beginning anew
            return [f for entry in entries if (f := self._put_one(*entry)) is not None]
        return []

    def remove(self, keys: Sequence[K]) -> list[Failed]:
        """Delete; a key that is not there is fine."""
        try:
            self._source.delete_batch(self._key.encode_all(keys), len(keys))
        except LibbpfError:
            return [f for key in keys if (f := self._remove_one(key)) is not None]
        return []

    def read(self) -> dict[K, V]:
        """All entries."""
        key, value = self._key.decode, self._value.decode
        return {key(raw_key): value(raw_value) for raw_key, raw_value in self._source.items()}

    def parts(self, size: int = _PART) -> Iterator[list[tuple[K, V]]]:
        """All entries, some at a time; more where one hash bucket holds more."""
        key_size, value_size = self._source.key_size, self._source.value_bytes
        key, value = self._key.decode, self._value.decode
        part: list[tuple[K, V]] = []
        for keys, values, count in self._source.batches(size):
            raw_keys = (keys[i : i + key_size] for i in range(0, count * key_size, key_size))
            raw = (values[i : i + value_size] for i in range(0, count * value_size, value_size))
            part += zip(map(key, raw_keys), map(value, raw), strict=True)
            if len(part) >= size:
                yield part
                part = []
        yield part

    def lookup(self, keys: Iterable[K]) -> dict[K, V]:
        """Those of the keys that are there, with their values."""
        found = ((key, self._source.lookup(self._key.encode(key))) for key in keys)
        return {key: self._value.decode(raw) for key, raw in found if raw is not None}

    def _put_one(self, key: K, value: V) -> Failed | None:
        try:
            self._source.update(self._key.encode(key), self._value.encode(value))
        except LibbpfError as error:
            return Failed(self.name, "set", key, self._meaning(error))
        return None

    def _remove_one(self, key: K) -> Failed | None:
        try:
            self._source.delete(self._key.encode(key))
        except LibbpfError as error:
            return Failed(self.name, "delete", key, error)
        return None

    def _meaning(self, error: LibbpfError) -> Exception:
        if error.errno in _FULL:
            return MapFull(self.name, self._source.max_entries)
        return error


class TrieMap(HashMap[K, V]):
    """A map whose lookup answers with the longest prefix that matches."""

    def lookup(self, keys: Iterable[K]) -> dict[K, V]:
        """Those of the very keys that are there, as only a list of all tells: ask for many."""
        wanted = {self._key.encode(key): key for key in keys}
        value = self._value.decode
        return {
            wanted[raw_key]: value(raw)
            for raw_key, raw in self._source.items()
            if raw_key in wanted
        }
