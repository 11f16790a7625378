# SPDX-License-Identifier: Apache-2.0
"""The packet path of one instance: its programs, and the devices that they stand at.

Joins ``node.attachment``, which judges devices, with ``dataplane.devices`` and
``dataplane.devicemap``, which act on it. Woken by ``node.devices``; looks by itself now and then,
since nobody tells when another program pushes ours aside. Owned by ``instance``, which loads the
programs and says when the maps are filled. What the flows do is no business of this module.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Callable, Mapping, Sequence

import structlog

from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.dataplane.devicemap import DeviceFlags, DeviceMap, DeviceRecord
from kubeproxy_bpf.dataplane.devices import DeviceHooks, Wish
from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.dataplane.owned import Owned
from kubeproxy_bpf.dataplane.places import Hook, Place
from kubeproxy_bpf.dataplane.spare import LoadCopy
from kubeproxy_bpf.errors import UnsupportedKernel
from kubeproxy_bpf.libbpf import Link
from kubeproxy_bpf.node.attachment import (
    Attachment,
    LocalDevices,
    Role,
    attachments,
    source_address,
)
from kubeproxy_bpf.node.devices import Device
from kubeproxy_bpf.node.xdpfeatures import redirect_targets
from kubeproxy_bpf.serve.devices import DeviceReading
from kubeproxy_bpf.threads import in_thread

_log = structlog.get_logger(__name__)

_LOOK_S = 10.0
_LOOK_IF_TOLD_S = 60.0
"""Where the kernel tells of changes, and a look is many times as dear: at filters."""
_GLANCE_S = 0.5
"""Nobody tells when a program of tcx or XDP is removed: where the node's traffic passes it is asked
so often, which takes a tenth of a millisecond."""
_REST = 3
"""For so many times as long as a sync took there is no other ..."""
_REST_S = (0.01, 0.1)
"""... within these bounds: the kernel waits more than it works."""
_HOOKS: Mapping[Role, tuple[Hook, ...]] = {
    Role.UPLINK: (Hook.INGRESS, Hook.EGRESS),
    Role.OVERLAY: (Hook.INGRESS, Hook.EGRESS),
    Role.POD: (Hook.INGRESS, Hook.EGRESS),
    Role.LOOPBACK: (Hook.INGRESS,),
    Role.NONE: (),
}

_ORDER = tuple(_HOOKS)
_PAIRS = ("veth", "netkit")
"""Kinds of devices that are made with another end; a tap's is a process."""


class PacketPath:
    """Loaded packet programs at the devices of the node."""

    def __init__(
        self,
        datapath: Datapath,
        load_bare_ip: Callable[[], Datapath],
        links_dir: Path | None,
        config: Config,
        *,
        tcx: bool | None = None,
        owned: Owned | None = None,
        load_copy: LoadCopy | None = None,
    ) -> None:
        """``load_bare_ip`` gives the programs for devices without Ethernet header."""
        self.datapath = datapath
        self._load_bare_ip: Callable[[], Datapath] | None = load_bare_ip
        self._bare_ip: Datapath | None = None
        self._bare_ip_refusal = ""
        self._config = config
        self._hooks = DeviceHooks(
            datapath.programs, links_dir, tcx=tcx, owned=owned, load_copy=load_copy
        )
        self._map = DeviceMap(datapath.maps["kpb_devices"], datapath.btf)
        self._local = _local_devices(config)
        self._devices: tuple[Device, ...] | None = None
        self._changed = asyncio.Event()
        self._uplinks: tuple[str, ...] | None = None
        self._targets_unknown = False
        self._leading_out: frozenset[str] = frozenset()
        self._pods = 0
        self.steady = threading.Lock()
        """Held while attachments change: a link that somebody looks at may be closed then."""

    def devices_changed(self, devices: tuple[Device, ...]) -> None:
        """The devices of the node, all of them."""
        self._devices = devices
        judged = attachments(devices, self._config.devices, self._local)
        self._pods = sum(item.role == Role.POD for item in judged)
        self._leading_out = frozenset(i.device.name for i in judged if i.role == Role.UPLINK)
        self._changed.set()

    def is_uplink(self, device: str) -> bool:
        """Whether a device leads out of the node, by what was last heard of the devices."""
        return device in self._leading_out

    def filters_changed(self) -> None:
        """Somebody added or removed a qdisc or filter: it may have been ours."""
        self._changed.set()

    def sync(self) -> None:
        """Attach where it is wanted, and tell the programs of the devices; blocks.

        What fails is logged, and tried again by ``run``.
        """
        if self._devices is None:
            return
        try:
            with self.steady:
                self._sync(self._devices)
        except OSError as error:
            _log.error("devices_not_looked_at", error=str(error))

    def _sync(self, devices: tuple[Device, ...]) -> None:
        judged = attachments(devices, self._config.devices, self._local)
        # Uplinks first: the kernel takes some 10 ms for each, and a map may be full.
        judged.sort(key=lambda item: _ORDER.index(item.role))
        # First what the programs have to know, then the programs.
        targets = self._xdp_targets()
        bridges = {item.device.ifindex: item.device for item in judged}
        self._map.sync({i.device.ifindex: _record(i, targets, bridges) for i in judged})
        wishes = _wishes(judged, self._config.xdp)
        if self._load_bare_ip and not all(wish.ethernet for wish in wishes.values()):
            self._add_bare_ip(self._load_bare_ip)
        self._hooks.sync(wishes, outdated=lambda: self._devices is not devices)
        uplinks = tuple(item.device.name for item in judged if item.role == Role.UPLINK)
        if uplinks != self._uplinks:
            self._uplinks = uplinks
            if uplinks:
                _log.info("uplinks_chosen", devices=list(uplinks))
            else:
                # Clients outside of the node are not served.
                _log.warning("no_uplink_found", named=list(self._config.devices))

    def _add_bare_ip(self, load: Callable[[], Datapath]) -> None:
        """Load what devices without Ethernet header need; few nodes have any.

        A kernel that refuses the programs is not asked again; what may pass is tried again."""
        try:
            self._bare_ip = load()
        except (UnsupportedKernel, OSError) as error:
            if str(error) != self._bare_ip_refusal:
                self._bare_ip_refusal = str(error)
                _log.error("programs_refused_for_bare_ip", error=self._bare_ip_refusal)
            if isinstance(error, UnsupportedKernel):
                self._load_bare_ip = None
        else:
            self._load_bare_ip = None
            self._hooks.add(self._bare_ip.programs)

    def _xdp_targets(self) -> frozenset[int]:
        """Devices that send what XDP redirects to them; none where the kernel does not tell."""
        if self._config.xdp == "off" or self._targets_unknown:
            return frozenset()
        try:
            return redirect_targets()
        except OSError as error:
            self._targets_unknown = True
            _log.info("xdp_redirects_only_back", error=str(error))
            return frozenset()

    async def run(self) -> None:
        """Keep it so; runs for ever, once ``sync`` was called for the first time."""
        loop = asyncio.get_running_loop()
        while True:
            await self._time_to_look()
            self._changed.clear()
            begin = loop.time()
            await in_thread(self.sync)
            least, most = _REST_S
            await asyncio.sleep(max(least, min(_REST * (loop.time() - begin), most)))

    async def _time_to_look(self) -> None:
        """Until something changed, a program at an uplink is missing, or nothing did for long."""
        loop = asyncio.get_running_loop()
        end = loop.time() + (_LOOK_IF_TOLD_S if self._hooks.changes_are_told else _LOOK_S)
        while (left_s := end - loop.time()) > 0:
            try:
                async with asyncio.timeout(min(left_s, _GLANCE_S)):
                    await self._changed.wait()
                return
            except TimeoutError:
                if await in_thread(self._glance):
                    return

    def _glance(self) -> bool:
        with self.steady:
            return self._hooks.lacks(self._leading_out)

    def reading(self) -> DeviceReading:
        """The state of the moment."""
        modes = self._hooks.xdp_modes()
        return DeviceReading(
            loaded=True,
            attached=tuple(map(_label, self._hooks.attached)),
            put_back={_label(place): n for place, n in dict(self._hooks.reattached).items()},
            refused=tuple(map(_label, dict(self._hooks.refused))),
            xdp_modes={name: modes.get(name, "none") for name in self._uplinks or ()},
        )

    def pins(self) -> list[tuple[Path, Link]]:
        """Every link that is pinned, and where; good as long as ``steady`` is held."""
        return self._hooks.pins()

    def pin_while(self, ours: Callable[[], bool]) -> None:
        """Leave the directory of pins alone while it is another's."""
        self._hooks.may_pin = ours

    @property
    def pods(self) -> int:
        """Devices that lead to pods, by what was last heard of them."""
        return self._pods

    def close(self) -> None:
        """Let go of the devices; what is pinned goes on. The programs are the owner's to close."""
        self._hooks.close()
        if self._bare_ip is not None:
            self._bare_ip.close()


def _label(place: Place) -> tuple[str, str]:
    return place.device, place.hook.value


def _local_devices(config: Config) -> LocalDevices:
    if config.detect_local_mode == "BridgeInterface":
        return LocalDevices(bridge=config.bridge_interface)
    if config.detect_local_mode == "InterfaceNamePrefix":
        return LocalDevices(prefix=config.interface_name_prefix)
    return LocalDevices()


def _wishes(judged: Sequence[Attachment], xdp: str) -> dict[Place, Wish]:
    """In the order of attachment."""
    wishes = {}
    for item in judged:
        device = item.device
        for hook in _HOOKS[item.role]:
            wishes[Place(device.ifindex, device.name, hook)] = Wish(item.ethernet)
        mode = _xdp_mode(item, xdp)
        if mode is not None:
            wishes[Place(device.ifindex, device.name, Hook.XDP)] = Wish(True, mode)
    return wishes


def _xdp_mode(item: Attachment, xdp: str) -> str | None:
    """Automatically only where nothing can be lost by it: a veth takes what XDP sends only if its
    peer has XDP too, or GRO, and drops it silently otherwise."""
    if item.role != Role.UPLINK or not item.ethernet or xdp == "off":
        return None
    if xdp == "auto":
        return None if item.device.kind == "veth" else "native"
    return xdp


def _record(
    item: Attachment, xdp_targets: frozenset[int], devices: Mapping[int, Device]
) -> DeviceRecord:
    device = item.device
    # What a bridge's port takes in for this host goes to the MAC of the bridge.
    master = devices.get(device.master)
    receiver = master if master is not None and master.kind == "bridge" else device
    flags = DeviceFlags(0)
    for flag, applies in (
        (DeviceFlags.POD, item.role == Role.POD),
        (DeviceFlags.POD_LOCAL, item.pod_local),
        (DeviceFlags.PEER, item.role == Role.POD and device.kind in _PAIRS),
        (DeviceFlags.ETHERNET, item.ethernet),
        # Never to a pod: what its end of the wire takes changes without a word.
        (DeviceFlags.XDP_TARGET, item.role == Role.UPLINK and device.ifindex in xdp_targets),
    ):
        if applies:
            flags |= flag
    return DeviceRecord(
        source_address(device, ipv4=True),
        source_address(device, ipv4=False),
        receiver.mac,
        int(flags),
        device.mtu,
    )
