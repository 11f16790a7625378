# SPDX-License-Identifier: Apache-2.0
"""``--cleanup``: takes away everything of this instance, and what a kube-proxy left; then looks.

Programs and maps are found through the kernel, with pins or without; those of other instances on
the same kernel stay. Sockets that were translated keep their connections: they know their backend
themselves. What the packet path carried ends, since nobody translates it any more. Rules of a
kube-proxy that is alive stay: it serves by them already. A proxy that runs is not fought, but
waited for, as long as a container may take to end. Each step is tried whatever became of those
before. Called by ``cli``.
"""

from __future__ import annotations

import asyncio
import errno
import time
from pathlib import Path
from typing import Callable, Iterable, Iterator

import structlog

from kubeproxy_bpf.api.snapshot_file import SnapshotFile
from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.dataplane import inventory
from kubeproxy_bpf.dataplane.lock import PinLock, WriterLock
from kubeproxy_bpf.dataplane.mounts import find_cgroup_root, has_bpffs
from kubeproxy_bpf.dataplane.others import Others
from kubeproxy_bpf.dataplane.owned import Owned
from kubeproxy_bpf.dataplane.pinning import drop_pins
from kubeproxy_bpf.dataplane.settings import netns_cookie
from kubeproxy_bpf.errors import KubeProxyError, UnsupportedKernel, WriterBusy
from kubeproxy_bpf.host.forward import remove_forward_accept
from kubeproxy_bpf.libbpf import BpfMap, LibbpfError
from kubeproxy_bpf.node.reservation import format_ports
from kubeproxy_bpf.program_settings import owner_of, reservation_of
from kubeproxy_bpf.takeover import leftovers
from kubeproxy_bpf.takeover.ports import held_by_others, ports_of
from kubeproxy_bpf.takeover.takeover import spared_by

_log = structlog.get_logger(__name__)

WRITER_ENDS_S = 30.0
"""How long a pod has to end, by default."""
_KERNEL_FREES_S = 10.0
"""The kernel frees maps and programs behind our back, when nothing can run them any more."""
_POLL_S = 0.05
_HELD = "is held by a process, or by a pin on a file system that is not mounted here"

Problems = Iterator[str]


def run(config: Config, *, writer_ends_s: float = WRITER_ENDS_S) -> int:
    """Clean up; returns the exit code: 1 if anything is left, or a proxy of this instance runs."""
    locks = _locks(Path(config.pin_path))
    try:
        if not _acquired(locks, writer_ends_s):
            _log.error("cleanup_refused", reason="a proxy of this instance runs: stop it first")
            return 1
        problems = list(_all(config))
    finally:
        for lock in locks:
            lock.release()
    for problem in problems:
        _log.error("cleanup_left", what=problem)
    if problems:
        return 1
    _log.info("cleanup_finished", left="nothing")
    return 0


def _locks(pins: Path) -> list[WriterLock | PinLock]:
    """Those that a proxy of this instance would hold; one may be in another network namespace."""
    locks: list[WriterLock | PinLock] = [WriterLock(str(pins))]
    if has_bpffs(pins) and pins.is_dir():
        locks.append(PinLock(pins))
    return locks


def _acquired(locks: Iterable[WriterLock | PinLock], wait_s: float) -> bool:
    def busy(error: WriterBusy) -> None:
        _log.warning("writer_awaited", instance=error.instance, seconds=wait_s)

    async def acquire() -> None:
        async with asyncio.timeout(wait_s):
            for lock in locks:
                await lock.acquire(busy)

    try:
        asyncio.run(acquire())
    except TimeoutError:
        return False
    return True


def _all(config: Config) -> Problems:
    steps: tuple[tuple[str, Callable[[Config], Problems]], ...] = (
        ("datapath", _datapath),
        ("other instances", _others),
        ("reserved ports", _reservation),
        ("rules of FORWARD", _forward),
        ("rules of kube-proxy", _kube_proxy),
        ("tracking", _tracking),
        ("snapshot", _snapshot),
    )
    for name, step in steps:
        try:
            yield from step(config)
        except (KubeProxyError, OSError) as error:
            yield f"{name}: {error}"
        except Exception as error:  # whatever it is: the steps behind are tried, too
            yield f"{name}: {type(error).__name__}: {error}"


def _snapshot(config: Config) -> Problems:
    """The last known objects of the cluster that this node served."""
    if config.snapshot_path:
        SnapshotFile(Path(config.snapshot_path)).remove()
    yield from ()


def _datapath(config: Config) -> Problems:
    """Programs, links, maps and pins; first those that attach sockets to us."""
    owned = Owned(owner_of(config, netns_cookie()))
    before = inventory.left(owned)
    maps = inventory.maps_left(owned)
    for each in inventory.end_all(owned):
        yield str(each)
    directory = Path(config.pin_path)
    drop_pins(directory)
    _until_gone(lambda: inventory.left(owned) or _open_maps(maps))
    for program in inventory.left(owned):
        yield f"program {program.id} ({program.name}) {_HELD}"
    for number in _open_maps(maps):
        yield f"map {number} {_HELD}"
    yield from _pins_in(directory)
    _log.info("datapath_removed", programs=len(before), maps=len(maps))


def _others(config: Config) -> Problems:
    """Programs that share our name or our node but are not ours: a wrong pin path, a wrong netns.

    Those that have neither in common belong to somebody else, who shares the control group.
    """
    ours = owner_of(config, netns_cookie())
    others = Others(ours)
    root = _cgroup_root(config)
    places = [("devices", others.at_devices())]
    if root is not None:
        places.append((str(root), others.at_cgroup(root)))
    for place, found in places:
        for owner, programs in found.items():
            if owner.instance == ours.instance or owner.host_netns == ours.host_netns:
                ids = " ".join(map(str, programs))
                name = f"{owner.instance:016x} of netns cookie {owner.host_netns}"
                yield f"programs of another instance are attached: {ids} at {place}, of {name}"


def _cgroup_root(config: Config) -> Path | None:
    if config.cgroup_root:
        return Path(config.cgroup_root)
    try:
        return find_cgroup_root()
    except UnsupportedKernel:
        return None


def _until_gone(left: Callable[[], object]) -> None:
    deadline = time.monotonic() + _KERNEL_FREES_S
    while left() and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _open_maps(numbers: Iterable[int]) -> list[int]:
    return [number for number in sorted(numbers) if _is_there(number)]


def _is_there(map_id: int) -> bool:
    try:
        BpfMap.from_id(map_id).close()
    except LibbpfError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def _pins_in(directory: Path) -> Problems:
    """What looks like ours; the directory may be shared with others, or mounted."""
    if directory.is_dir():
        for pin in sorted(directory.glob("*/*")):
            if pin.name.startswith(("kpb_", "dev-", "new-")):
                yield f"pin {pin}"


def _reservation(config: Config) -> Problems:
    reservation = reservation_of(config)
    given_back = reservation.undo()
    if given_back:
        _log.info("ports_given_back", ports=format_ports(given_back))
    _remove_empty(Path(config.state_path))
    yield from ()


def _remove_empty(state: Path) -> None:
    """Directories of notes, once there are none; those of others stay."""
    for each in (*state.glob("*"), state):
        try:
            each.rmdir()
        except OSError:
            continue


def _forward(config: Config) -> Problems:
    removed = remove_forward_accept()
    if removed:
        _log.info("forward_accept_removed", tables=removed)
    yield from ()


def _kube_proxy(config: Config) -> Problems:
    held = held_by_others(ports_of(config))
    if held:
        _log.info("kube_proxy_alive", ports=held, action="its rules stay")
        return
    if missing := leftovers.missing_tools():
        yield f"rules of kube-proxy: not looked at, there is no {' and no '.join(missing)} here"
    found = leftovers.find()
    yield from leftovers.remove(found, spared=spared_by(config))
    left = leftovers.find()
    yield from left.problems
    yield from (f"{count} {kind} of kube-proxy" for kind, count in left.counts.items())
    _log.info("leftovers_removed", **found.counts, kept=left.kept)


def _tracking(config: Config) -> Problems:
    """Last: to remove rules of a kube-proxy makes what keeps its connections tracked."""
    yield from leftovers.stop_tracking()
