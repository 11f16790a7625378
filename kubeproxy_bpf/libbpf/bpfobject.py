# SPDX-License-Identifier: Apache-2.0
"""An object file of BPF programs: opened, adjusted, loaded, closed.

Between ``open`` and ``load`` the maps can be resized, replaced by existing ones and given initial
values, and programs can be left out. Loading asks the verifier; each program has a log buffer of
its own, so a refusal names its program and carries the whole log. Used by ``dataplane.loader``.
"""

from __future__ import annotations

import mmap
import os
from ctypes import addressof, byref, c_char, c_uint32, sizeof, string_at
from pathlib import Path
from typing import Any, Iterator, Mapping, Self

from . import _native, log
from ._structs import OpenOpts
from .btf import Btf
from .closing import Closing
from .errors import LibbpfError, VerifierError, check
from .objectparts import ObjectMap, ObjectProgram

# Room for the verifier's words on one program: address space only, memory as it is written.
_LOG_BYTES = 4 << 20
_MAP_NORESERVE = 0x4000
_LOG_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE


class BpfObject(Closing):
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
            address = addressof(c_char.from_buffer(logs))
            for index, program in enumerate(self.programs.values()):
                program.set_log(address + index * _LOG_BYTES, _LOG_BYTES)
            # libbpf reads the log buffers during this call only, and refuses a second one.
            result = _native.bpf_object__load(self.pointer)
            if result < 0:
                self._raise_refusal(-result, names, logs)

    def close(self) -> None:
        """Free the object and its descriptors; a second call does nothing."""
        pointer, self._pointer = self._pointer, None
        if pointer is not None:
            _native.bpf_object__close(pointer)

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
