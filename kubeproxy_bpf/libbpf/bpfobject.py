# SPDX-License-Identifier: Apache-2.0
"""An object file of BPF programs: opened, adjusted, loaded, closed.

Between ``open`` and ``load`` the maps can be resized, replaced by existing ones and given initial
values, and programs can be left out. Loading asks the verifier; each program has a log buffer of
its own, so a refusal names its program and carries the whole log. Used by ``dataplane.loader``.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from ctypes import addressof, byref, c_char, c_size_t, c_uint32, sizeof, string_at
from pathlib import Path
from types import TracebackType
from typing import Any, Iterator, Mapping, Self

from . import _native, log
from ._structs import OpenOpts
from .bpflink import Link
from .bpfmap import BpfMap
from .bpfprogram import ProgramCalls
from .btf import Btf
from .errors import LibbpfError, VerifierError, check

# Room for the verifier's words on one program: address space only, memory as it is written.
_LOG_BYTES = 4 << 20
_MAP_NORESERVE = 0x4000


class BpfObject:
    """Programs and maps of one object file; closing it frees all that was not kept elsewhere."""

    def __init__(self, pointer: int, name: str, image: Any) -> None:
        self.name = name
        self._pointer: int | None = pointer
        self._pid = os.getpid()
        self._image = image  # libbpf may refer to it for as long as the object is open
        programs = (ObjectProgram(self, p) for p in self._walk(_native.bpf_object__next_program))
        maps = (ObjectMap(self, p) for p in self._walk(_native.bpf_object__next_map))
        self.programs: Mapping[str, ObjectProgram] = {p.name: p for p in programs}
        self.maps: Mapping[str, ObjectMap] = {m.name: m for m in maps}

    @classmethod
    def open(cls, source: Path | bytes, *, name: str | None = None) -> Self:
        """Read an object from a file or from memory; nothing reaches the kernel yet."""
        log.install()
        content = source if isinstance(source, bytes) else source.read_bytes()
        name = name or ("object" if isinstance(source, bytes) else source.name.partition(".")[0])
        image = (c_char * len(content)).from_buffer_copy(content)
        opts = OpenOpts(sz=sizeof(OpenOpts), object_name=name.encode())
        pointer = _native.bpf_object__open_mem(image, len(content), byref(opts))
        return cls(check(pointer, "bpf_object__open_mem", name), name, image)

    @property
    def pointer(self) -> int:
        """libbpf's handle; for this package only."""
        if self._pointer is None:
            raise ValueError(f"object {self.name} is closed")
        return self._pointer

    @property
    def btf(self) -> Btf:
        """The types of the object, with the offsets of its variables resolved."""
        types = check(_native.bpf_object__btf(self.pointer), "bpf_object__btf", self.name)
        size = c_uint32()
        raw = check(_native.btf__raw_data(types, byref(size)), "btf__raw_data", self.name)
        return Btf.parse(string_at(raw, size.value))

    def load(self) -> None:
        """Create the maps and load the programs, all or nothing."""
        for item in self.maps.values():
            item.hand_over()
        names = list(self.programs)
        with mmap.mmap(-1, _LOG_BYTES * max(len(names), 1), _LOG_FLAGS) as logs:
            buffer = c_char.from_buffer(logs)
            for index, program in enumerate(self.programs.values()):
                program.set_log(addressof(buffer) + index * _LOG_BYTES, _LOG_BYTES)
            del buffer
            # libbpf reads the log buffers during this call only, and refuses a second one.
            result = _native.bpf_object__load(self.pointer)
            if result < 0:
                self._raise_refusal(-result, names, logs)

    def close(self) -> None:
        """Free the object and its descriptors; a second call does nothing."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            _native.bpf_object__close(pointer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Bound early: module globals may be gone when the interpreter ends.
    def __del__(self, _getpid: Any = os.getpid, _close: Any = _native.bpf_object__close) -> None:
        # A forked child must not close descriptors that it may have given another meaning.
        pointer = getattr(self, "_pointer", None)
        if pointer is not None and self._pid == _getpid():
            self._pointer = None
            _close(pointer)

    def _walk(self, following: Any) -> Iterator[int]:
        pointer = following(self.pointer, None)
        while pointer is not None:
            yield pointer
            pointer = following(self.pointer, pointer)

    def _raise_refusal(self, errno: int, names: list[str], logs: mmap.mmap) -> None:
        # Programs load in order and stop at the first refusal: the last log tells of it.
        for index in reversed(range(len(names))):
            start = index * _LOG_BYTES
            end = logs.find(b"\0", start, start + _LOG_BYTES)
            if end > start:
                text = logs[start:end].decode("utf-8", "replace")
                raise VerifierError(errno, names[index], text)
        raise LibbpfError(errno, "bpf_object__load", self.name)


_LOG_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE


class ObjectProgram(ProgramCalls):
    """A program of an object, before and after loading."""

    __slots__ = ("name", "_object", "_pointer")

    def __init__(self, owner: BpfObject, pointer: int) -> None:
        self._object = owner
        self._pointer = pointer
        self.name = _text(_native.bpf_program__name(pointer))

    @property
    def fd(self) -> int:
        """The descriptor of the loaded program; it belongs to the object."""
        return check(_native.bpf_program__fd(self._handle()), "bpf_program__fd", self.name)

    @property
    def type(self) -> int:
        return _native.bpf_program__type(self._handle())

    @property
    def expected_attach_type(self) -> int:
        """Where the section of the program says that it belongs."""
        return _native.bpf_program__expected_attach_type(self._handle())

    @property
    def autoload(self) -> bool:
        return _native.bpf_program__autoload(self._handle())

    def set_autoload(self, wanted: bool) -> None:
        """Choose whether the program is loaded with its object."""
        result = _native.bpf_program__set_autoload(self._handle(), wanted)
        check(result, "bpf_program__set_autoload", self.name)

    def attach_cgroup(self, cgroup_fd: int) -> Link:
        """Attach to a cgroup; detached again when the link is closed and not pinned."""
        return Link.create(self.fd, cgroup_fd, self.expected_attach_type)

    def set_log(self, address: int, size: int) -> None:
        """Choose where the verifier writes; for ``BpfObject.load`` only."""
        result = _native.bpf_program__set_log_buf(self._handle(), address, size)
        check(result, "bpf_program__set_log_buf", self.name)

    def _handle(self) -> int:
        self._object.pointer  # raises when the object is closed, and this pointer with it
        return self._pointer


class ObjectMap:
    """A map of an object, before and after loading.

    Maps that stand for a section of variables are named like the section (``.rodata``).
    """

    __slots__ = ("name", "_object", "_pointer", "_initial")

    def __init__(self, owner: BpfObject, pointer: int) -> None:
        self._object = owner
        self._pointer = pointer
        self._initial: bytearray | None = None
        name = _text(_native.bpf_map__name(pointer))
        internal = _native.bpf_map__is_internal(pointer) and "." in name
        self.name = name[name.index(".") :] if internal else name

    @property
    def type(self) -> int:
        return _native.bpf_map__type(self._handle())

    @property
    def flags(self) -> int:
        return _native.bpf_map__map_flags(self._handle())

    @property
    def key_size(self) -> int:
        return _native.bpf_map__key_size(self._handle())

    @property
    def value_size(self) -> int:
        return _native.bpf_map__value_size(self._handle())

    @property
    def max_entries(self) -> int:
        """The size; can be set until the object is loaded."""
        return _native.bpf_map__max_entries(self._handle())

    @max_entries.setter
    def max_entries(self, count: int) -> None:
        result = _native.bpf_map__set_max_entries(self._handle(), count)
        check(result, "bpf_map__set_max_entries", self.name)

    def set_autocreate(self, wanted: bool) -> None:
        """Choose whether the map is created with its object."""
        result = _native.bpf_map__set_autocreate(self._handle(), wanted)
        check(result, "bpf_map__set_autocreate", self.name)

    def set_pin_path(self, path: str | os.PathLike[str]) -> None:
        """Let load reuse what is pinned there if it fits, else create and pin."""
        result = _native.bpf_map__set_pin_path(self._handle(), os.fsencode(path))
        check(result, "bpf_map__set_pin_path", self.name)

    def reuse(self, existing: BpfMap) -> None:
        """Take an existing map instead of a new one; that it fits is for the caller to know."""
        result = _native.bpf_map__reuse_fd(self._handle(), existing.fd)
        check(result, "bpf_map__reuse_fd", self.name)
        self._initial = None

    @property
    def initial_value(self) -> memoryview:
        """The contents of a section of variables; what is written here is used by load."""
        if self._initial is None:
            size = c_size_t()
            value = _native.bpf_map__initial_value(self._handle(), byref(size))
            address = check(value, "bpf_map__initial_value", self.name)
            self._initial = bytearray(string_at(address, size.value))
        return memoryview(self._initial)

    def hand_over(self) -> None:
        """Give the initial value to libbpf; for ``BpfObject.load`` only."""
        if self._initial is not None:
            value = bytes(self._initial)
            result = _native.bpf_map__set_initial_value(self._handle(), value, len(value))
            check(result, "bpf_map__set_initial_value", self.name)

    @property
    def map(self) -> BpfMap:
        """The created map, with a descriptor of its own that outlives the object."""
        fd = check(_native.bpf_map__fd(self._handle()), "bpf_map__fd", self.name)
        return BpfMap(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))

    def _handle(self) -> int:
        self._object.pointer  # raises when the object is closed, and this pointer with it
        return self._pointer


def _text(name: bytes | None) -> str:
    return (name or b"").decode()
