# SPDX-License-Identifier: Apache-2.0
"""What the kernel tells about a map, put together from bpf(2) and procfs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ._structs import MapInfoStruct
from .ownedfd import fill_info


class MapInfo(NamedTuple):
    """What the kernel knows of a map."""

    id: int
    type: int  # MapType
    name: str  # at most 15 characters
    key_size: int
    value_size: int
    max_entries: int
    flags: int  # MapFlag
    btf_id: int
    memlock: int  # bytes charged for the map
    frozen: bool


def map_info(fd: int) -> MapInfo:
    """Ask about an open map."""
    raw = MapInfoStruct()
    fill_info(fd, raw)
    accounting = _fdinfo(fd)
    return MapInfo(
        id=raw.id,
        type=raw.type,
        name=raw.name.decode(),
        key_size=raw.key_size,
        value_size=raw.value_size,
        max_entries=raw.max_entries,
        flags=raw.map_flags,
        btf_id=raw.btf_id,
        memlock=int(accounting.get("memlock", 0)),
        frozen=accounting.get("frozen") == "1",
    )


def _fdinfo(fd: int) -> dict[str, str]:
    """Read what only procfs tells of a map: its memory, and whether it is frozen."""
    text = Path(f"/proc/self/fdinfo/{fd}").read_text()
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in pairs}
