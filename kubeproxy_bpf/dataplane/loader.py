# SPDX-License-Identifier: Apache-2.0
"""Opens the BPF objects, fits them to this node, takes over maps of before, and loads them.

First the maps that programs of this instance run on are taken, if all of them fit. Then those that
are pinned under ``<pin_dir>/<digest>/``, where the digest names their layouts and sizes: equal
digest, equal maps; another digest gets maps of its own beside the old. What is found there is
checked all the same. Without a pin directory the maps live as long as programs use them. Where what
runs has another layout or other sizes, ``migrate`` takes over what its maps hold.

The object of the packets is loaded beside that of the sockets: what is named alike is the same map,
and only what is left is pinned for it. Attaching is the business of ``attach`` and ``devices``,
writing the writer's; called by the composition root, in a thread.
"""

from __future__ import annotations

import errno
import hashlib
from contextlib import ExitStack
from pathlib import Path
from typing import Collection, Iterable, Iterator, Mapping

import structlog

from kubeproxy_bpf.dataplane import layout
from kubeproxy_bpf.dataplane.migrate import Past, find_past
from kubeproxy_bpf.dataplane.owned import Fits, Owned, RunningMap
from kubeproxy_bpf.dataplane.places import BARE_IP_PROGRAMS, XDP_PROGRAMS
from kubeproxy_bpf.dataplane.settings import ConfigFlags, Settings
from kubeproxy_bpf.dataplane.tracking import TrackState
from kubeproxy_bpf.errors import DataplaneError, LayoutError, UnsupportedKernel
from kubeproxy_bpf.libbpf import (
    BpfMap,
    BpfObject,
    Btf,
    Closing,
    LibbpfError,
    ObjectMap,
    ObjectProgram,
    VerifierError,
)
from kubeproxy_bpf.libbpf.btftypes import Type

_log = structlog.get_logger(__name__)

_MAY_PASS = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EINTR)
_RODATA = ".rodata"
_CONFIG = "kpb_config"
_NO_MAPS: Mapping[str, BpfMap] = {}


class PinnedMapDiffers(DataplaneError):
    """A map at our pin path is not the one that the programs need."""

    def __init__(self, name: str, path: Path, detail: str) -> None:
        super().__init__(name, path, detail)
        self.name = name
        self.path = path
        self.detail = detail

    def __str__(self) -> str:
        return f"the pinned map {self.path} is not ours to use: {self.detail}"


class Datapath(Closing):
    """Loaded programs and their maps. Closing it ends nothing that is attached or pinned."""

    def __init__(
        self, bpf_object: BpfObject, btf: Btf, maps_dir: Path | None, past: Past | None = None
    ) -> None:
        self._object = bpf_object
        self._past = past
        self.btf = btf
        self.maps_dir = maps_dir
        """Where the maps are pinned, if they are."""
        self.programs: Mapping[str, ObjectProgram] = {
            name: program for name, program in bpf_object.programs.items() if program.autoload
        }
        self.maps: dict[str, BpfMap] = {}
        for name, item in _shared_maps(bpf_object):
            self.maps[name] = item.map

    def take_over(self, last: bool) -> None:
        """Copy what programs wrote elsewhere: before, and ``last`` after, they are exchanged."""
        if self._past is None:
            return
        self._past.copy_state(self.maps, again=last)
        if last:
            self._past.close()
            self._past = None

    def close(self) -> None:
        """Give all descriptors back."""
        if self._past is not None:
            self._past.close()
        for bpf_map in self.maps.values():
            bpf_map.close()
        self._object.close()


def load_datapath(
    object_path: Path,
    pin_dir: Path | None,
    sizes: Mapping[str, int],
    settings: Settings,
    owned: Owned | None = None,
) -> Datapath:
    """Load the programs of an object; ``sizes`` gives max_entries by map, where not the default.

    ``owned`` knows the programs that run already; without it only pinned maps are taken over.
    """
    return _load(BpfObject.open(object_path), pin_dir, sizes, settings, _NO_MAPS, owned)


def load_packets(
    object_path: Path,
    pin_dir: Path | None,
    sizes: Mapping[str, int],
    settings: Settings,
    sockets: Datapath,
    *,
    xdp: bool = True,
    bare_ip: bool = True,
    owned: Owned | None = None,
) -> Datapath:
    """Load the packet programs on the maps of the sockets.

    Without those of XDP where they are not wanted, or are all that the kernel refuses: first the
    one for frames in fragments (Linux 5.18). Those for devices without Ethernet header can be left
    to ``load_bare_ip``: the verifier takes its time.
    """
    not_wanted = () if bare_ip else BARE_IP_PROGRAMS
    choices = ((), XDP_PROGRAMS[:1], XDP_PROGRAMS)
    for refused in choices if xdp else choices[-1:]:
        try:
            bpf_object = _open_without(object_path, (*not_wanted, *refused))
            return _load(bpf_object, pin_dir, sizes, settings, sockets.maps, owned)
        except (UnsupportedKernel, LibbpfError) as error:
            if refused == XDP_PROGRAMS:
                raise
            _log.warning("packet_programs_refused", without=refused, error=str(error))
    raise AssertionError("the last choice returns or raises")


def load_bare_ip(object_path: Path, settings: Settings, packets: Datapath) -> Datapath:
    """Load the programs for devices without Ethernet header on the maps of the others."""
    return _load_only(BARE_IP_PROGRAMS, object_path, settings, packets)


def load_copy(object_path: Path, settings: Settings, packets: Datapath, name: str) -> Datapath:
    """Load a packet program once more on the maps that it has."""
    return _load_only((name,), object_path, settings, packets)


def _load_only(
    names: Collection[str], object_path: Path, settings: Settings, packets: Datapath
) -> Datapath:
    bpf_object = BpfObject.open(object_path)
    for name, program in bpf_object.programs.items():
        program.set_autoload(name in names)
    return _load(bpf_object, None, {}, settings, packets.maps)


def _open_without(object_path: Path, left_out: Collection[str]) -> BpfObject:
    bpf_object = BpfObject.open(object_path)
    for name, program in bpf_object.programs.items():
        if name in left_out:
            program.set_autoload(False)
    return bpf_object


def _load(
    bpf_object: BpfObject,
    pin_dir: Path | None,
    sizes: Mapping[str, int],
    settings: Settings,
    given: Mapping[str, BpfMap],
    owned: Owned | None = None,
) -> Datapath:
    """Load on the given maps, on those in use or pinned, and on new ones; close after a failure."""
    with ExitStack() as undo:
        undo.callback(bpf_object.close)
        btf = bpf_object.btf
        configure(bpf_object, btf, settings)
        for name in sizes.keys() - given.keys():
            bpf_object.maps[name].max_entries = sizes[name]
        _reuse_given(bpf_object, given)
        taken, past = _reuse_running(bpf_object, btf, owned, given) if owned else ([], None)
        if past is not None:
            undo.callback(past.close)
        maps_dir = pin_dir / digest(bpf_object, btf) if pin_dir else None
        # Where what runs has other maps, pins of these sizes and layouts are of an earlier time.
        pinned = maps_dir if past is None else None
        missing = _not_pinned(bpf_object, pinned, {*given, *taken})
        load_object(bpf_object)
        datapath = Datapath(bpf_object, btf, maps_dir, past)
        if past is not None:
            past.copy_plan({name: datapath.maps[name] for name in missing})
        if maps_dir:
            _pin(bpf_object, [*missing, *taken], maps_dir)
        undo.pop_all()
        return datapath


def configure(bpf_object: BpfObject, btf: Btf, settings: Settings) -> None:
    """Write the settings where the programs read them."""
    layout.check_enum(btf, "config_flags", "CONFIG_", ConfigFlags)
    if "track_state" in btf.enums:  # only the packet programs have it
        layout.check_enum(btf, "track_state", "STATE_", TrackState)
    codec = layout.bind(btf, _CONFIG, Settings)
    (offset,) = (v.offset for v in btf.datasecs[_RODATA].variables if v.name == _CONFIG)
    value = bpf_object.maps[_RODATA].initial_value
    value[offset : offset + codec.size] = codec.encode(settings)


def may_pass(error: Exception) -> bool:
    """Whether something was wanting that there may be again: no property of the kernel."""
    return isinstance(error, LibbpfError) and error.errno in _MAY_PASS


def load_object(bpf_object: BpfObject) -> None:
    """Load, or say which feature of the kernel is missing."""
    try:
        bpf_object.load()
    except VerifierError as error:
        if may_pass(error):
            raise
        raise UnsupportedKernel(f"BPF program {error.program}", error.last_line) from error
    except LibbpfError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            needs = "loading takes CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
            raise UnsupportedKernel("bpf(2)", needs) from error
        raise


def digest(bpf_object: BpfObject, btf: Btf) -> str:
    """Name the layouts and sizes of all maps: equal exactly if maps can be exchanged."""
    hashed = hashlib.sha256()
    structs: set[str] = set()
    for name, item in _shared_maps(bpf_object):
        shape = (item.type, item.key_size, item.value_size, item.max_entries, item.flags)
        hashed.update(f"{name} {shape}\n".encode())
        types = btf.maps[name]
        for part in (types.key, types.value):
            structs.update(_structs_in(btf, part))
    hashed.update(layout.digest(btf, *structs).encode())
    return hashed.hexdigest()[:12]


def _structs_in(btf: Btf, part: Type | None) -> Iterator[str]:
    while part is not None and part.length:
        part = part.element
    if part is None or part.name not in btf.structs:
        return
    yield part.name
    for member in btf.structs[part.name].members:
        yield from _structs_in(btf, member.type)


def _shared_maps(bpf_object: BpfObject) -> list[tuple[str, ObjectMap]]:
    """All maps but the sections of variables, which belong to one load alone."""
    return sorted((n, m) for n, m in bpf_object.maps.items() if not n.startswith("."))


def _reuse_given(bpf_object: BpfObject, given: Mapping[str, BpfMap]) -> None:
    """Take maps that are open, whatever their size."""
    for name, item in _shared_maps(bpf_object):
        if name in given:
            item.max_entries = given[name].max_entries
            _check_shape(item, given[name], Path(name))
            item.reuse(given[name])


def _reuse_running(
    bpf_object: BpfObject, btf: Btf, owned: Owned, given: Collection[str]
) -> tuple[list[str], Past | None]:
    """Take the maps that programs of ours run on, if they are what we would make; name them.

    They are the truth: pins may be of an earlier time, when this process could see them. If not all
    of them are, some can be shared, and the others are what is left of the past.
    """
    fits = _fits(bpf_object, btf)
    wanted = [name for name, _ in _shared_maps(bpf_object) if name not in given]
    found, past = owned.maps(wanted, fits), None
    if not found:
        past = find_past(owned, wanted, btf)
        found = past.share(fits) if past else {}
    for name, running in found.items():
        with running:
            bpf_object.maps[name].reuse(running)
    return sorted(found), past


def _fits(bpf_object: BpfObject, btf: Btf) -> Fits:
    """Tells whether a map is what the object would make."""

    def fits(name: str, running: RunningMap) -> bool:
        types = btf.maps[name]
        structs = {each for part in types for each in _structs_in(btf, part)}
        try:
            _check_shape(bpf_object.maps[name], running.map, Path(name))
            return layout.digest(btf, *structs) == layout.digest(running.types, *structs)
        except (PinnedMapDiffers, LayoutError) as error:
            _log.info("running_maps_differ", map=name, why=str(error))
            return False

    return fits


def _not_pinned(
    bpf_object: BpfObject, maps_dir: Path | None, given: Collection[str] = ()
) -> list[str]:
    """Take the maps that are pinned; return the names of those that are not."""
    missing = []
    for name, item in _shared_maps(bpf_object):
        if name in given:
            continue
        if maps_dir is None or not (maps_dir / name).exists():
            missing.append(name)
            continue
        with BpfMap.open_pinned(maps_dir / name) as existing:
            _check_shape(item, existing, maps_dir / name)
            item.reuse(existing)
    return missing


def _check_shape(item: ObjectMap, existing: BpfMap, path: Path) -> None:
    for field in ("type", "key_size", "value_size", "max_entries", "flags"):
        wanted, found = getattr(item, field), getattr(existing, field)
        if wanted != found:
            detail = f"{field} is {int(found)} and must be {int(wanted)}"
            raise PinnedMapDiffers(item.name, path, detail)


def _pin(bpf_object: BpfObject, names: Iterable[str], maps_dir: Path) -> None:
    """Pin maps, in place of others of an earlier time."""
    maps_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in names:
        with bpf_object.maps[name].map as used:
            if not _is_pinned(used, maps_dir / name):
                (maps_dir / name).unlink(missing_ok=True)
                used.pin(maps_dir / name)


def _is_pinned(used: BpfMap, path: Path) -> bool:
    if not path.exists():
        return False
    with BpfMap.open_pinned(path) as pinned:
        return pinned.info().id == used.info().id
