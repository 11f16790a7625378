# SPDX-License-Identifier: Apache-2.0
"""The programs and maps of an open object, adjusted before it is loaded and used after.

They point into their object: once it is closed, every use raises ValueError. What shall outlive
it (``ObjectMap.map``, links) has descriptors of its own.
"""

from __future__ import annotations

import fcntl
import os
from ctypes import byref, c_size_t, string_at
from typing import Protocol

from . import _native
from .bpflink import Link
from .bpfmap import BpfMap
from .bpfprogram import ProgramCalls
from .errors import check


class Owner(Protocol):
    """The object that a part belongs to."""

    @property
    def pointer(self) -> int:
        """libbpf's handle; raises ValueError when the object is closed."""
        ...


class ObjectProgram(ProgramCalls):
    """A program of an object, before and after loading."""

    __slots__ = ("name", "_object", "_pointer")

    def __init__(self, owner: Owner, pointer: int) -> None:
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

    def __init__(self, owner: Owner, pointer: int) -> None:
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
