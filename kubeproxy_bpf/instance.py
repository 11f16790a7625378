# SPDX-License-Identifier: Apache-2.0
"""One instance of the datapath in the kernel: its lock, maps, programs and links, and their life.

``open`` takes the writer's lock and loads the programs on the pinned maps; ``attach`` puts them to
work once the maps are filled; ``close`` lets go and leaves everything running. A kernel that
refuses the packet programs still gets the sockets. An instance is named by its pin path. Called by
``app``; what is written to the maps is the business of ``dataplane.program``, which devices have
packet programs that of ``packets``.
"""

from __future__ import annotations

import asyncio
from functools import partial
from importlib.resources import files
from pathlib import Path
from subprocess import SubprocessError
from typing import Callable, Collection, Iterable, Iterator

import structlog

from kubeproxy_bpf.audit.upkeep import Upkeep
from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.dataplane.canary import HooksDead, prove_hooks
from kubeproxy_bpf.dataplane.cgrouproot import cgroup_to_hook
from kubeproxy_bpf.dataplane.counters import read_counters
from kubeproxy_bpf.dataplane.devices import end_pins
from kubeproxy_bpf.dataplane.inventory import end_strays, left
from kubeproxy_bpf.dataplane.loader import (
    Datapath,
    load_bare_ip,
    load_copy,
    load_datapath,
    load_packets,
    may_pass,
)
from kubeproxy_bpf.dataplane.lock import PinLock, WriterLock
from kubeproxy_bpf.dataplane.mounts import has_bpffs
from kubeproxy_bpf.dataplane.others import report_others
from kubeproxy_bpf.dataplane.owned import Owned, Owner
from kubeproxy_bpf.dataplane.pinning import (
    any_attached,
    drop_maps,
    drop_pins,
    links_in,
    on_host,
    pin_directory,
)
from kubeproxy_bpf.dataplane.probe import probe_kernel, require
from kubeproxy_bpf.dataplane.settings import Settings, netns_cookie
from kubeproxy_bpf.dataplane.terminator import Terminator
from kubeproxy_bpf.dataplane.writer import Writer
from kubeproxy_bpf.errors import UnsupportedKernel, WriterBusy
from kubeproxy_bpf.inspection import Inspection
from kubeproxy_bpf.libbpf import LibbpfError, ObjectProgram
from kubeproxy_bpf.node.devices import Device
from kubeproxy_bpf.node.reservation import format_ports
from kubeproxy_bpf.packets import PacketPath
from kubeproxy_bpf.program_settings import (
    owner_of,
    packet_entries,
    reservation_of,
    settings_of,
    socket_entries,
)
from kubeproxy_bpf.serve.devices import DeviceReading
from kubeproxy_bpf.threads import in_thread
from kubeproxy_bpf.udp_aborts import UdpAborts

_log = structlog.get_logger(__name__)


class Instance:
    """The kernel side of one proxy."""

    def __init__(self, config: Config, forward_mark: int = 0) -> None:
        """``forward_mark``: of packets that netfilter's FORWARD shall accept; 0: none."""
        self._config = config
        self._forward_mark = forward_mark
        self._pins: Path | None = None
        """None: nothing is pinned, the kernel keeps what is attached."""
        self._owned: Owned | None = None
        self._lock = WriterLock(config.pin_path)
        self._pin_lock = PinLock(Path(config.pin_path))
        self._datapath: Datapath | None = None
        self._writer: Writer | None = None
        self.packets: PacketPath | None = None
        """None: not open yet, or the kernel refused the packet programs."""
        self._root = Path(config.cgroup_root)
        self._aborts: UdpAborts | None = None
        self._upkeep: Upkeep | None = None
        self.at_work = asyncio.Event()
        """Set once the programs are attached."""
        self.inspection: Inspection | None = None
        """What is known of hooks and maps; None until the instance is open."""
        self.attached = False
        """Whether the programs are at work."""
        self.serves_already = False
        """Whether programs of an earlier process are, with what it had filled the maps with."""

    @property
    def writer(self) -> Writer:
        """The maps, open for writing."""
        assert self._writer is not None, "the instance is not open"
        return self._writer

    @property
    def sockets(self) -> Datapath:
        """What serves sockets; ``packets`` has its own beside it."""
        assert self._datapath is not None, "the instance is not open"
        return self._datapath

    @property
    def upkeep(self) -> Upkeep:
        """What is attached to the cgroup, and pinned."""
        assert self._upkeep is not None, "the instance is not open"
        return self._upkeep

    @property
    def cgroup(self) -> Path:
        """The cgroup that is hooked."""
        return self._root

    @property
    def proved(self) -> bool | None:
        """Whether the hooks ran when that was last tried; None: it never was."""
        return self.inspection.hooks.proved if self.inspection is not None else None

    async def open(self, waiting: Callable[[], None]) -> None:
        """Become the writer, and load programs and maps; ``waiting`` is told if another writes.

        Raises:
            DataplaneError: the kernel or what is pinned does not fit.
        """

        def busy(error: WriterBusy) -> None:
            _log.warning("writer_awaited", instance=error.instance, holder=error.holder or None)
            waiting()

        await self._lock.acquire(busy)
        self._pins = await in_thread(self._prepare)
        if self._pins is not None:
            await self._pin_lock.acquire(busy)
        self._datapath = await in_thread(self._load)
        self._upkeep = Upkeep(
            self._datapath,
            lambda: self.packets,
            self._root,
            self._pins,
            self._owned,
            lock=self._pin_lock,
            may_mount=self._config.pins == "on" or on_host(),
        )
        terminator = Terminator.load(object_path("sock_destroy.bpf.o"), self._datapath.maps)
        self._aborts = UdpAborts(terminator)
        packets = self.packets.datapath if self.packets else None
        maps = {**self._datapath.maps, **(packets.maps if packets else {})}
        self.inspection = Inspection(self._datapath.programs, self._root, maps)
        self._writer = Writer(
            maps,
            self._datapath.btf,
            packet_btf=packets.btf if packets else None,
        )

    async def attach(self) -> None:
        """Put the programs to work at the cgroup; only the first call does something."""
        if not self.attached:
            await in_thread(self._attach)
            self.attached = True
            self.at_work.set()

    def prove(self) -> None:
        """Return if the hooks run, else raise as ``prove_hooks``; blocks."""
        assert self.inspection is not None
        try:
            prove_hooks(self.sockets, self._root)
        except HooksDead:
            self.inspection.attached(False)
            raise
        self.inspection.attached(True)

    def abort_lost_sockets(self, backends: Iterable[int] = ()) -> None:
        """UDP services changed, these backends left them: abort sockets that hold on to any.

        On kernels whose programs can look at sockets the maps tell which; others need the ids.
        """
        assert self._aborts is not None
        # At once: the ids may be given to other backends soon.
        self._aborts.ask(self.writer.backend_peer(number) for number in backends)

    async def run_terminator(self) -> None:
        """Abort UDP sockets of removed backends whenever asked; runs for ever."""
        assert self._aborts is not None
        await self._aborts.run()

    @property
    def sockets_aborted(self) -> int:
        """UDP sockets of removed backends, since the start."""
        return self._aborts.sockets if self._aborts is not None else 0

    def devices_changed(self, devices: tuple[Device, ...]) -> None:
        """The node's devices, all of them."""
        if self.packets is not None:
            self.packets.devices_changed(devices)

    def filters_changed(self) -> None:
        """A qdisc or filter of some device changed."""
        if self.packets is not None:
            self.packets.filters_changed()

    def is_uplink(self, device: str) -> bool:
        """Whether a device leads out of the node; without packet programs nobody asked."""
        return self.packets is not None and self.packets.is_uplink(device)

    async def run_packets(self) -> None:
        """Keep the packet programs at the devices that come and go; runs for ever."""
        await self.at_work.wait()
        if self.packets is not None:
            await self.packets.run()
        await asyncio.Event().wait()

    async def run_inspection(self) -> None:
        """Look at hooks and maps now and then; runs for ever."""
        assert self.inspection is not None
        await self.inspection.run(self.at_work)

    def device_reading(self) -> DeviceReading:
        """Where packet programs stand."""
        return self.packets.reading() if self.packets is not None else DeviceReading()

    def verdicts(self) -> dict[str, int]:
        """What the programs decided so far, by the names of ``enum counter``."""
        return read_counters(self.sockets.maps["kpb_counters"], self.sockets.btf)

    async def close(self) -> None:
        """Let go of everything; what is pinned goes on serving."""
        if self._upkeep is not None:
            self._upkeep.close()
        if self._writer is not None:
            self._writer.close()
        if self._aborts is not None:
            self._aborts.close()
        if self.packets is not None:
            self.packets.close()
            self.packets.datapath.close()
        if self._datapath is not None:
            self._datapath.close()
        self._pin_lock.release()
        self._lock.release()

    def _prepare(self) -> Path | None:
        """Where to pin, once it is known that the programs can run here."""
        self._root = cgroup_to_hook(self._config.cgroup_root)
        features = probe_kernel()
        require(features)
        for feature in features:
            if not feature.present:
                _log.warning("kernel_feature_missing", feature=feature.name, use=feature.purpose)
        return pin_directory(self._config.pins, Path(self._config.pin_path))

    def _load(self) -> Datapath:
        settings = settings_of(self._config, netns_cookie(), self._forward_mark)
        self._owned = self._recognition(owner_of(self._config, settings.host_netns))
        self.serves_already = self._find_earlier()
        datapath = load_datapath(
            object_path("kube_proxy.bpf.o"),
            self._pins,
            socket_entries(self._config),
            settings,
            self._owned,
        )
        _log.info("datapath_loaded", maps=str(datapath.maps_dir))
        self.packets = self._load_packets(datapath, settings)
        return datapath

    def _find_earlier(self) -> bool:
        """Programs are attached when the maps are filled; maps without them may be half filled."""
        if self._links_dir is not None and any_attached(self._links_dir):
            return True
        return self._owned is not None and bool(left(self._owned))

    def _recognition(self, owner: Owner) -> Owned | None:
        """What tells which programs are ours; None where the process may not look."""
        owned = Owned(owner)
        try:
            owned.programs()
        except LibbpfError as error:
            if self._pins is None:
                needs = "without pins the process needs CAP_SYS_ADMIN, to find its programs by id"
                raise UnsupportedKernel("walk over BPF programs", needs) from error
            _log.warning("running_programs_unknown", error=str(error))
            return None
        return owned

    def _load_packets(self, sockets: Datapath, settings: Settings) -> PacketPath | None:
        path = object_path("packets.bpf.o")
        try:
            datapath = load_packets(
                path,
                self._pins,
                packet_entries(self._config),
                settings,
                sockets,
                xdp=self._config.xdp != "off",
                bare_ip=False,
                owned=self._owned,
            )
        except (UnsupportedKernel, LibbpfError) as error:
            if self.serves_already and may_pass(error):
                raise  # without packet programs those that serve would be ended
            _log.error("packet_path_unavailable", error=str(error))
            return None
        self._reserve_ports()
        return PacketPath(
            datapath,
            partial(load_bare_ip, path, settings, datapath),
            self._links_dir,
            self._config,
            owned=self._owned,
            load_copy=partial(load_copy, path, settings, datapath),
        )

    @property
    def _links_dir(self) -> Path | None:
        return links_in(self._pins) if self._pins else None

    def _reserve_ports(self) -> None:
        """The kernel shall give no socket a port that masqueraded flows use."""
        first, last = self._config.snat_ports
        try:
            found = reservation_of(self._config).reserve(first, last)
        except OSError as error:
            _log.warning("ports_not_reserved", ports=f"{first}-{last}", error=str(error))
            return
        if found.wanted:
            _log.info("ports_reserved", ports=format_ports(found.wanted))

    def _attach(self) -> None:
        assert self._datapath is not None
        self._datapath.take_over(last=False)
        self.upkeep.attach()
        assert self.inspection is not None
        self.inspection.look_at_hooks()
        _log.info("hooks_attached", hooks=len(self._datapath.programs), cgroup=str(self._root))
        self._try_to_prove()
        in_use = {self._datapath.maps_dir}
        if self.packets is not None:
            # Close around the exchange: flows made in between wait for the second copy.
            self.packets.datapath.take_over(last=False)
            self.packets.sync()
            self.packets.datapath.take_over(last=True)
            in_use.add(self.packets.datapath.maps_dir)
        self._datapath.take_over(last=True)
        _log.info("datapath_at_work", places=len(self.device_reading().attached))
        self._end_past(in_use)
        if self._owned is not None:
            report_others(owner_of(self._config, netns_cookie()), self._root)

    def _end_past(self, in_use: Collection[Path | None]) -> None:
        """End what earlier processes left that is of no use any more."""
        if self._owned is not None:
            current = {program.info().id for program in self._programs()}
            end_strays(self._owned, current, packets=self.packets is None)
        if self._pins is None:
            self._drop_past_pins(Path(self._config.pin_path))
            return
        if self.packets is None:
            # Those of an earlier version would go on with maps that nobody writes any more.
            end_pins(links_in(self._pins))
        drop_maps(self._pins, in_use)

    def _drop_past_pins(self, directory: Path) -> None:
        """They may also be those of a proxy that runs in another network namespace."""
        if not has_bpffs(directory) or not directory.is_dir():
            return
        if self._pin_lock.try_acquire():
            drop_pins(directory)
            self._pin_lock.release()
        else:
            _log.warning("old_pins_kept", path=str(directory), error="another proxy uses them")

    def _programs(self) -> Iterator[ObjectProgram]:
        assert self._datapath is not None
        yield from self._datapath.programs.values()
        if self.packets is not None:
            yield from self.packets.datapath.programs.values()

    def _try_to_prove(self) -> None:
        """Attached is not the same as run: say so, but serve whatever does pass the hooks."""
        try:
            self.prove()
        except (UnsupportedKernel, OSError, SubprocessError, ValueError) as error:
            _log.error("hooks_not_proved", cgroup=str(self._root), error=str(error))
        else:
            _log.info("hooks_proved", cgroup=str(self._root))


def object_path(name: str) -> Path:
    """A compiled BPF object of the package."""
    return Path(str(files("kubeproxy_bpf") / "obj" / name))
