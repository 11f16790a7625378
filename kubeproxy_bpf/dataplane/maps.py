# SPDX-License-Identifier: Apache-2.0
"""The maps that user space writes, with records for bytes.

Arrays are written through their memory mapping; ``hashmaps`` has the others. ``WordArray`` is the
one way in which a word that programs read at any moment is stored: one aligned 8-byte store, never
a copy of bytes that a program might see half done. Order and grace periods are the writer's
business.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from array import array
from typing import Any, Generic, Iterator, Mapping, Sequence, TypeVar

from kubeproxy_bpf.dataplane.hashmaps import HashMap, TrieMap
from kubeproxy_bpf.dataplane.layout import Codec, TypeInfo, bind, check_enum
from kubeproxy_bpf.dataplane.stats import CountsToClear
from kubeproxy_bpf.errors import LayoutError
from kubeproxy_bpf.libbpf.abc import Map
from kubeproxy_bpf.plan import records
from kubeproxy_bpf.plan.records import (
    Backend,
    Frontend,
    FrontendKey,
    Record,
    Service,
    Slot,
    SourceRange,
    SourceRangeKey,
    Vip,
)
from kubeproxy_bpf.plan.writes import PORT_WORDS, Capacity

R = TypeVar("R", bound=tuple[Any, ...])

_WORD = 8


class _Mapped:
    """An mmapable array: cells of the value size rounded up to 8 bytes."""

    def __init__(self, source: Map) -> None:
        self.max_entries = source.max_entries
        self.stride = (source.value_size + 7) & ~7
        self._mmap: mmap.mmap = source.mmap()

    def close(self) -> None:
        """Unmap; nothing may be written afterwards."""
        self._mmap.close()


class RecordArray(_Mapped, Generic[R]):
    """Records that no program can reach while they are written."""

    def __init__(self, source: Map, codec: Codec[R]) -> None:
        super().__init__(source)
        self._codec = codec
        self._encode = codec.encode

    def __setitem__(self, index: int, record: R) -> None:
        if not 0 <= index < self.max_entries:
            raise IndexError(index)
        raw = self._encode(record)
        start = index * self.stride
        self._mmap[start : start + len(raw)] = raw

    def write(self, entries: Sequence[tuple[int, R]]) -> None:
        """Write many records; one copy where they stand one after the other, as at the start."""
        first, last = entries[0][0], entries[-1][0]
        in_a_row = [index for index, _ in entries] == list(range(first, last + 1))
        if not in_a_row or self.stride != self._codec.size:
            for index, record in entries:
                self[index] = record
            return
        if first < 0 or last >= self.max_entries:
            raise IndexError(last)
        raw = self._codec.encode_all([record for _, record in entries])
        self._mmap[first * self.stride : first * self.stride + len(raw)] = raw

    def differing(self, entries: Sequence[tuple[int, R]]) -> list[tuple[int, R]]:
        """Of these entries those that hold something else, with what they hold."""
        first, last = entries[0][0], entries[-1][0]
        stride, size = self.stride, self._codec.size
        if stride == size and [i for i, _ in entries] == list(range(first, last + 1)):
            raw = self._codec.encode_all([record for _, record in entries])
            if self._mmap[first * stride : first * stride + len(raw)] == raw:
                return []
        encode, held = self._encode, self._mmap
        return [
            (i, self[i])
            for i, record in entries
            if held[i * stride : i * stride + size] != encode(record)
        ]

    def __getitem__(self, index: int) -> R:
        if not 0 <= index < self.max_entries:
            raise IndexError(index)
        start = index * self.stride
        return self._codec.decode(self._mmap[start : start + self._codec.size])

    def written(self) -> Iterator[tuple[int, R]]:
        """All entries up to the last that is not zero."""
        raw = self._mmap[: self.max_entries * self.stride].rstrip(b"\0")
        raw = raw.ljust(-(-len(raw) // self.stride) * self.stride, b"\0")
        if self.stride != self._codec.size:
            size, stride = self._codec.size, self.stride
            raw = b"".join(raw[start : start + size] for start in range(0, len(raw), stride))
        empty = self._codec.decode(bytes(self._codec.size))
        for index, record in enumerate(self._codec.decode_all(raw)):
            if record != empty:
                yield index, record


class SlotArray(_Mapped):
    """Backend ids by position; a run is one copy."""

    def __init__(self, source: Map) -> None:
        super().__init__(source)
        self._view = memoryview(self._mmap).cast("I")
        self._step = self.stride // self._view.itemsize

    def write(self, first: int, ids: array[int]) -> None:
        """Write a run that no program can reach yet."""
        if first < 0 or first + len(ids) > self.max_entries:
            raise IndexError(first)
        step = self._step
        self._view[first * step : (first + len(ids)) * step : step] = ids

    def differing(self, runs: Sequence[tuple[int, array[int]]]) -> list[tuple[int, array[int]]]:
        """Of these runs those that hold other ids, with what they hold."""
        held = ((first, self._run(first, len(ids))) for first, ids in runs)
        return [each for each, (_, ids) in zip(held, runs, strict=True) if each[1] != ids]

    def _run(self, first: int, length: int) -> array[int]:
        raw = self._mmap[first * self.stride : (first + length) * self.stride]
        return array("I", raw)[:: self._step]

    def read(self) -> array[int]:
        """All slots."""
        ids = array("I", self._mmap[: self.max_entries * self.stride])
        return ids[:: self._step]

    def close(self) -> None:
        """Unmap; nothing may be written afterwards."""
        self._view.release()
        super().close()


class WordArray(_Mapped):
    """Words of 8 bytes that programs read at any time."""

    def __init__(self, source: Map) -> None:
        super().__init__(source)
        if self.stride != _WORD:
            raise LayoutError(source.name, "word", f"{self.stride} bytes are not one word")
        self._words: Any = (ctypes.c_uint64 * self.max_entries).from_buffer(self._mmap)

    def store(self, index: int, word: int) -> None:
        """Store one word: ctypes sets a c_uint64 by a single aligned store of 8 bytes."""
        if not 0 <= index < self.max_entries:  # ctypes would count a negative one from the end
            raise IndexError(index)
        self._words[index] = word

    def differing(self, entries: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Of these entries those that hold another word, with what they hold."""
        held = self._words
        return [(index, held[index]) for index, word in entries if held[index] != word]

    def read(self) -> array[int]:
        """All words."""
        return array("Q", self._mmap[: self.max_entries * _WORD])

    def close(self) -> None:
        """Unmap; nothing may be written afterwards."""
        self._words = None
        super().close()


class _AddressCodec:
    """The key of vips: ``struct ip_addr`` alone, which is its bytes."""

    def __init__(self, btf: TypeInfo) -> None:
        self.size = btf.structs["ip_addr"].size
        if self.size != 16:
            raise LayoutError("ip_addr", "address", f"{self.size} bytes instead of 16")

    def encode(self, address: bytes) -> bytes:
        return address

    def encode_all(self, addresses: Sequence[bytes]) -> bytes:
        return b"".join(addresses)

    def decode(self, raw: bytes) -> bytes:
        return bytes(raw)


class _FlagsCodec:
    """The value of vips: ``struct vip``, a record of one number."""

    def __init__(self, btf: TypeInfo) -> None:
        self._codec = bind(btf, "vip", Vip)

    def encode(self, flags: int) -> bytes:
        return self._codec.encode(Vip(flags))

    def encode_all(self, flags: Sequence[int]) -> bytes:
        return self._codec.encode_all([(each,) for each in flags])  # type: ignore[misc]

    def decode(self, raw: bytes) -> int:
        return self._codec.decode(raw).flags


class _ServiceWords:
    """``services`` read as records."""

    def __init__(self, words: WordArray, codec: Codec[Service]) -> None:
        self._words = words
        self._codec = codec

    def differing(self, entries: Sequence[tuple[int, Service]]) -> list[tuple[int, Service]]:
        """Of these entries those that hold something else, with what they hold."""
        raw = array("Q", self._codec.encode_all([service for _, service in entries]))
        words = [(index, word) for (index, _), word in zip(entries, raw, strict=True)]
        return [
            (index, self._codec.decode(word.to_bytes(_WORD, sys.byteorder)))
            for index, word in self._words.differing(words)
        ]


class ServiceMaps:
    """The seven maps of the service proxy and one of the packet path, bound to their structs."""

    def __init__(
        self, maps: Mapping[str, Map], btf: TypeInfo, packet_btf: TypeInfo | None = None
    ) -> None:
        check_enums(btf)
        if bind(btf, "slot", Slot).size != 4:
            raise LayoutError("slot", "Slot", "a slot is a number of 4 bytes")
        self.vips: HashMap[bytes, int] = HashMap(
            "vips", maps["kpb_vips"], _AddressCodec(btf), _FlagsCodec(btf)
        )
        key, value = bind(btf, "frontend_key", FrontendKey), bind(btf, "frontend", Frontend)
        self.frontends: HashMap[FrontendKey, Frontend] = HashMap(
            "frontends", maps["kpb_frontends"], key, value
        )
        self.records = RecordArray(maps["kpb_records"], bind(btf, "record", Record))
        self.backends = RecordArray(maps["kpb_backends"], bind(btf, "backend", Backend))
        self.slots = SlotArray(maps["kpb_slots"])
        self.services = WordArray(maps["kpb_services"])
        self.node_ports = WordArray(maps["kpb_node_ports"])
        self.source_ranges = _source_ranges(maps, packet_btf or btf)
        """None without the packet path: nobody else looks at them."""
        self.counts = CountsToClear(maps)
        self._service = bind(btf, "service", Service)
        if self.node_ports.max_entries != PORT_WORDS:
            raise LayoutError("kpb_node_ports", "port bitmap", f"needs {PORT_WORDS} words")
        self.capacity = Capacity(
            maps["kpb_vips"].max_entries,
            maps["kpb_frontends"].max_entries,
            self.services.max_entries,
            self.records.max_entries,
            self.slots.max_entries,
            self.backends.max_entries,
            maps["kpb_source_ranges"].max_entries if self.source_ranges else 0,
        )

    def publish(self, index: int, service: Service) -> None:
        """Store the word of a service: from now on programs read what it names."""
        self.services.store(index, int.from_bytes(self._service.encode(service), sys.byteorder))

    @property
    def words(self) -> _ServiceWords:
        """The words of services, as records."""
        return _ServiceWords(self.services, self._service)

    def published(self) -> dict[int, Service]:
        """All words that were ever stored."""
        words = self.services.read()
        decode = self._service.decode
        return {
            index: decode(word.to_bytes(_WORD, sys.byteorder))
            for index, word in enumerate(words)
            if word
        }

    def close(self) -> None:
        """Unmap the arrays; the maps themselves belong to whoever opened them."""
        for mapped in (self.records, self.backends, self.slots, self.services, self.node_ports):
            mapped.close()


def _source_ranges(
    maps: Mapping[str, Map], btf: TypeInfo
) -> HashMap[SourceRangeKey, SourceRange] | None:
    source = maps.get("kpb_source_ranges")
    if source is None:
        return None
    key = bind(btf, "source_range_key", SourceRangeKey)
    return TrieMap("source_ranges", source, key, bind(btf, "source_range", SourceRange))


def check_enums(btf: TypeInfo) -> None:
    """Refuse an object whose enums differ from ours."""
    check_enum(btf, "vip_flags", "VIP_", records.VipFlags)
    check_enum(btf, "frontend_kind", "FRONTEND_", records.FrontendKind)
    check_enum(btf, "frontend_flags", "FRONTEND_", records.FrontendFlags)
    check_enum(btf, "record_flags", "RECORD_", records.RecordFlags)
    check_enum(btf, "backend_flags", "BACKEND_", records.BackendFlags)
