# SPDX-License-Identifier: Apache-2.0
"""A BPF map by file descriptor: single elements, batches, iteration, memory mapping.

Keys and values are ``bytes`` of exactly the size that the kernel copies; lengths are checked
before every call, since the kernel would read or write past a short buffer. What the bytes mean
is the business of the callers (``dataplane``).
"""

from __future__ import annotations

import errno
import mmap
import os
from ctypes import byref, c_uint32, create_string_buffer, sizeof
from typing import Iterator, Self

from . import _native
from ._structs import BatchOpts, MapCreateOpts
from .enums import MapType, UpdateFlag
from .errors import ENOTSUPP, BatchError, LibbpfError, check
from .kernel import possible_cpus
from .mapinfo import MapInfo, map_info
from .ownedfd import OwnedFd, open_pin, pin

_PER_CPU = {
    MapType.PERCPU_HASH,
    MapType.PERCPU_ARRAY,
    MapType.LRU_PERCPU_HASH,
    MapType.PERCPU_CGROUP_STORAGE,
}
# The kernel leaves the count alone when it refuses a batch as a whole with one of these.
_NO_BATCH = {errno.EINVAL, errno.EOPNOTSUPP, ENOTSUPP}
_LOOKUP_BATCH = 4096


class BpfMap(OwnedFd):
    """A map of the kernel, open in this process."""

    __slots__ = ("name", "type", "key_size", "value_size", "max_entries", "flags", "value_bytes")

    def __init__(self, fd: int) -> None:
        """Take over a descriptor; it is closed also when this fails."""
        super().__init__(fd)
        try:
            info = map_info(fd)
        except BaseException:
            self.close()
            raise
        self.name = info.name
        self.type = info.type
        self.key_size = info.key_size
        self.value_size = info.value_size
        self.max_entries = info.max_entries
        self.flags = info.flags
        # Bytes that a lookup writes: a per-CPU map yields an aligned value for each processor.
        self.value_bytes = self.value_size
        if self.type in _PER_CPU:
            self.value_bytes = _align8(self.value_size) * possible_cpus()

    @classmethod
    def open_pinned(cls, path: str | os.PathLike[str]) -> Self:
        return cls(open_pin(path))

    @classmethod
    def from_id(cls, id: int) -> Self:
        return cls(check(_native.bpf_map_get_fd_by_id(id), "bpf_map_get_fd_by_id", str(id)))

    @classmethod
    def create(
        cls,
        type: int,
        name: str,
        key_size: int,
        value_size: int,
        max_entries: int,
        flags: int = 0,
        *,
        inner: BpfMap | None = None,
    ) -> Self:
        """Create a map; ``inner`` is the pattern of the elements of a map of maps."""
        opts = MapCreateOpts(sz=sizeof(MapCreateOpts), map_flags=flags)
        if inner is not None:
            opts.inner_map_fd = inner.fd
        fd = _native.bpf_map_create(
            type, name.encode(), key_size, value_size, max_entries, byref(opts)
        )
        return cls(check(fd, "bpf_map_create", name))

    def info(self) -> MapInfo:
        """Ask the kernel; the sizes are also at hand as attributes, without a system call."""
        return map_info(self.fd)

    def lookup(self, key: bytes) -> bytes | None:
        """Return the value of a key, None when it is absent."""
        self._check_key(key)
        value = create_string_buffer(self.value_bytes)
        result = _native.bpf_map_lookup_elem(self.fd, key, value)
        if result == -errno.ENOENT:
            return None
        check(result, "bpf_map_lookup_elem", self.name)
        return value.raw

    def update(self, key: bytes, value: bytes, flags: int = UpdateFlag.ANY) -> None:
        """Write one element; the key of a queue is empty."""
        self._check_key(key)
        if len(value) != self.value_bytes:
            raise ValueError(f"{self.name}: value of {len(value)} bytes, not {self.value_bytes}")
        result = _native.bpf_map_update_elem(self.fd, key or None, value, flags)
        check(result, "bpf_map_update_elem", self.name)

    def delete(self, key: bytes) -> bool:
        """Remove one element; False when it was absent."""
        self._check_key(key)
        result = _native.bpf_map_delete_elem(self.fd, key)
        if result == -errno.ENOENT:
            return False
        check(result, "bpf_map_delete_elem", self.name)
        return True

    def update_batch(self, keys: bytes, values: bytes, count: int, flags: int = 0) -> int:
        """Write many elements in one call and return their number, or raise BatchError.

        Kernels and map types without batches, and flags that batches refuse, take one call each.
        """
        self._check_total(keys, self.key_size, count)
        self._check_total(values, self.value_bytes, count)
        done = c_uint32(count)
        opts = BatchOpts(sz=sizeof(BatchOpts), elem_flags=flags)
        result = _native.bpf_map_update_batch(self.fd, keys, values, byref(done), byref(opts))
        if -result in _NO_BATCH:
            return self._update_each(keys, values, count, flags)
        if result < 0:
            reached = 0 if result == -errno.EFAULT else done.value
            raise BatchError(-result, "bpf_map_update_batch", self.name, reached)
        return count

    def delete_batch(self, keys: bytes, count: int) -> int:
        """Remove many elements; absent ones are skipped. Return how many were there."""
        self._check_total(keys, self.key_size, count)
        start, deleted = 0, 0
        buffer = create_string_buffer(keys, len(keys))
        while start < count:
            done = c_uint32(count - start)
            rest = byref(buffer, start * self.key_size)
            result = _native.bpf_map_delete_batch(self.fd, rest, byref(done), None)
            if -result in _NO_BATCH:
                return deleted + self._delete_each(keys, start, count)
            if result not in (0, -errno.ENOENT):
                reached = start if result == -errno.EFAULT else start + done.value
                raise BatchError(-result, "bpf_map_delete_batch", self.name, reached)
            deleted += done.value
            start += done.value + (1 if result else 0)
        return deleted

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over all elements, in batches where the kernel can.

        Elements that change meanwhile may or may not appear.
        """
        try:
            yield from self._items_by_batch()
        except _BatchRefused:
            yield from self._items_by_key()

    def batches(self, size: int = _LOOKUP_BATCH) -> Iterator[tuple[bytes, bytes, int]]:
        """Iterate over all elements as they lie in memory: keys, values, and how many.

        The caller may pause between batches for as long as it likes; elements that are there all
        the time appear exactly once. More than ``size`` come where one hash bucket holds more.
        """
        try:
            yield from self._batches(size)
        except _BatchRefused:
            for key, value in self._items_by_key():
                yield key, value, 1

    def keys(self) -> Iterator[bytes]:
        """Iterate over all keys."""
        return (key for key, _ in self.items())

    def mmap(self, writable: bool = True) -> mmap.mmap:
        """Map all values of an mmapable array into memory; the caller closes the mapping.

        Value i begins at i times the value size, rounded up to 8.
        """
        length = _align8(self.value_size) * self.max_entries
        length = -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        try:
            return mmap.mmap(self.fd, length, mmap.MAP_SHARED, access)
        except OSError as error:
            raise LibbpfError(error.errno or errno.EINVAL, "mmap", self.name) from error

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Keep the map at a path on a BPF file system."""
        pin(self.fd, path)

    def freeze(self) -> None:
        """Forbid writes from user space for good."""
        check(_native.bpf_map_freeze(self.fd), "bpf_map_freeze", self.name)

    def _check_key(self, key: bytes) -> None:
        if len(key) != self.key_size:
            raise ValueError(f"{self.name}: key of {len(key)} bytes, not {self.key_size}")

    def _check_total(self, items: bytes, size: int, count: int) -> None:
        if len(items) != size * count:
            raise ValueError(f"{self.name}: {len(items)} bytes, not {count} times {size}")

    def _update_each(self, keys: bytes, values: bytes, count: int, flags: int) -> int:
        key_size, value_size = self.key_size, self.value_bytes
        for i in range(count):
            key = keys[i * key_size : (i + 1) * key_size]
            value = values[i * value_size : (i + 1) * value_size]
            result = _native.bpf_map_update_elem(self.fd, key, value, flags)
            if result < 0:
                raise BatchError(-result, "bpf_map_update_elem", self.name, i)
        return count

    def _delete_each(self, keys: bytes, start: int, stop: int) -> int:
        size = self.key_size
        return sum(self.delete(keys[i * size : (i + 1) * size]) for i in range(start, stop))

    def _items_by_batch(self) -> Iterator[tuple[bytes, bytes]]:
        size, value_size = self.key_size, self.value_bytes
        for keys, values, count in self._batches():
            for i in range(count):
                yield (
                    keys[i * size : (i + 1) * size],
                    values[i * value_size : (i + 1) * value_size],
                )

    def _batches(self, size: int = _LOOKUP_BATCH) -> Iterator[tuple[bytes, bytes, int]]:
        room = min(size, max(self.max_entries, 1))
        cursor = None
        while True:
            following = create_string_buffer(max(self.key_size, 8))
            keys = create_string_buffer(room * self.key_size)
            values = create_string_buffer(room * self.value_bytes)
            count = c_uint32(room)
            result = _native.bpf_map_lookup_batch(
                self.fd, cursor, following, keys, values, byref(count), None
            )
            if result == -errno.ENOSPC:  # one hash bucket holds more than there is room for
                room *= 2
                continue
            if cursor is None and -result in _NO_BATCH:
                raise _BatchRefused
            if result != -errno.ENOENT:
                check(result, "bpf_map_lookup_batch", self.name)
            yield keys.raw, values.raw, count.value
            if result:
                return
            cursor = following

    def _items_by_key(self) -> Iterator[tuple[bytes, bytes]]:
        key: bytes | None = None
        while True:
            following = create_string_buffer(self.key_size)
            result = _native.bpf_map_get_next_key(self.fd, key, following)
            if result == -errno.ENOENT:
                return
            check(result, "bpf_map_get_next_key", self.name)
            key = following.raw
            value = self.lookup(key)
            if value is not None:
                yield key, value


class _BatchRefused(Exception):
    """The kernel has no batch lookup for this map."""


def _align8(size: int) -> int:
    return (size + 7) & ~7
