# SPDX-License-Identifier: Apache-2.0
"""Tells which programs of the kernel are those of one instance, and finds its maps through them.

Each program carries its configuration in a read-only map that the kernel lists with it. An instance
is what the writer's lock is held for: a name, whose digest stands there, and a network namespace.
So the answer needs no file, survives every process, and is right where several instances share
a kernel. Offsets come from the program's own types: it may be of another version. Used by
``loader`` to go on with the maps of an earlier process, and by all that attaches and detaches.
"""

from __future__ import annotations

import errno
import sys
from contextlib import ExitStack
from functools import cache
from typing import Callable, Iterable, Iterator, NamedTuple

from kubeproxy_bpf.libbpf import (
    BpfMap,
    Btf,
    BtfError,
    LibbpfError,
    MapType,
    Program,
    ProgramInfo,
    loaded_btf,
    program_ids,
)

_PREFIX = "kpb_"
_SECTION = ".rodata"
_CONFIG = "kpb_config"
_FIRST = bytes(4)
_NAME_LENGTH = 15
"""So much of a map's name does the kernel keep."""


class Owner(NamedTuple):
    """An instance, as its programs name it in ``struct kpb_config``."""

    instance: int
    host_netns: int


class RunningMap(NamedTuple):
    """A map of programs that run, and the types that these know it by."""

    map: BpfMap
    types: Btf


Fits = Callable[[str, RunningMap], bool]


class Owned:
    """Recognises the programs of one instance; remembers what it has seen."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._instance = owner.instance.to_bytes(8, sys.byteorder)
        self._seen: dict[int, bool] = {}
        # Of the types, which are read once, only the place of the owner is kept.
        self._places: dict[int, tuple[slice, ...]] = {}
        self._sections: dict[int, bytes | None] = {}

    def __contains__(self, program_id: int) -> bool:
        """Whether the program with this id is there, and belongs to the instance."""
        if program_id not in self._seen:
            self._seen[program_id] = self._look(program_id) is not None
        return self._seen[program_id]

    def programs(self) -> list[ProgramInfo]:
        """All programs of the instance, attached or not, the newest first.

        Raises:
            LibbpfError: the process may not look; it needs CAP_SYS_ADMIN.
        """
        found = [info for number in program_ids() if (info := self._look(number)) is not None]
        return sorted(found, key=lambda info: (info.load_time_ns, info.id), reverse=True)

    def maps(self, names: Iterable[str], fits: Fits) -> dict[str, BpfMap]:
        """Open the maps of these names that running programs use; the newest programs decide.

        All that are found, or none if one does not fit: what one map says of another is true only
        within a set. The caller closes them.
        """
        wanted = {name[:_NAME_LENGTH]: name for name in names}
        found: dict[str, BpfMap] = {}
        types_of = cache(_types)
        with ExitStack() as undo:
            for program in self.programs():
                for opened in _opened(program.map_ids):
                    name = wanted.get(opened.name)
                    if name is None or name in found:
                        opened.close()
                        continue
                    types = types_of(program.btf_id)
                    if types is None:  # the program is just ending
                        opened.close()
                        continue
                    found[name] = undo.enter_context(opened)
                    if not fits(name, RunningMap(opened, types)):
                        return {}
            undo.pop_all()
        return found

    def _look(self, program_id: int) -> ProgramInfo | None:
        try:
            with Program.from_id(program_id) as program:
                info = program.info()
                ours = info.name.startswith(_PREFIX) and self._is_ours(info)
        except LibbpfError as error:
            if error.errno != errno.ENOENT:  # gone meanwhile
                raise
            return None
        return info if ours else None

    def _is_ours(self, info: ProgramInfo) -> bool:
        """Whether a program says so itself."""
        for map_id in info.map_ids:
            content = self._section(map_id)
            # Most are told apart without reading their types, which takes milliseconds.
            if content is None or self._instance not in content:
                continue
            places = self._places_in(info.btf_id)
            numbers = [int.from_bytes(content[place], sys.byteorder) for place in places]
            return numbers == list(self._owner)
        return False

    def _section(self, map_id: int) -> bytes | None:
        """The content of a section of variables, None for other maps; many programs share them."""
        if map_id not in self._sections:
            with BpfMap.from_id(map_id) as found:
                is_one = found.type == MapType.ARRAY and found.name.endswith(_SECTION)
                self._sections[map_id] = found.lookup(_FIRST) if is_one else None
        return self._sections[map_id]

    def _places_in(self, btf_id: int) -> tuple[slice, ...]:
        """Where programs of these types say whose they are; nowhere if they do not."""
        if btf_id not in self._places:
            types = _types(btf_id)
            self._places[btf_id] = _places_of_owner(types) if types is not None else ()
        return self._places[btf_id]


def _types(btf_id: int) -> Btf | None:
    """The types of a program; None where they cannot be read."""
    try:
        return loaded_btf(btf_id)
    except (LibbpfError, BtfError):
        return None


def _opened(map_ids: Iterable[int]) -> Iterator[BpfMap]:
    for map_id in map_ids:
        try:
            yield BpfMap.from_id(map_id)
        except LibbpfError as error:
            if error.errno != errno.ENOENT:  # its last program ended meanwhile
                raise


def _places_of_owner(types: Btf) -> tuple[slice, ...]:
    """The bytes of each field of Owner within the section of variables."""
    struct, section = types.structs.get(_CONFIG), types.datasecs.get(_SECTION)
    if struct is None or section is None:
        return ()
    base = next((each.offset for each in section.variables if each.name == _CONFIG), None)
    members = {each.name: each for each in struct.members}
    if base is None or not members.keys() >= set(Owner._fields):
        return ()
    found = (members[field] for field in Owner._fields)
    return tuple(slice(base + each.offset, base + each.offset + each.size) for each in found)
