# SPDX-License-Identifier: Apache-2.0
"""From Config to what the programs carry and how large their maps are.

Reads this node's facts where the configuration leaves something open: its memory,
the time-outs of its connection tracking. Called by ``instance`` when it loads the programs.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.config.validate_own import NODE_PORTS
from kubeproxy_bpf.dataplane.owned import Owner
from kubeproxy_bpf.dataplane.settings import ConfigFlags, Settings
from kubeproxy_bpf.dataplane.tracking import (
    TrackState,
    default_flows,
    encode_timeouts,
    timeouts,
)
from kubeproxy_bpf.node.reservation import PortReservation


def settings_of(config: Config, host_netns: int, forward_mark: int = 0) -> Settings:
    """What the programs of this configuration carry in .rodata.

    ``forward_mark`` is what netfilter's FORWARD is told to accept, or 0.
    """
    first, last = config.snat_ports
    middle_first, middle_last = ports_beside(first, last)
    return Settings(
        host_netns,
        _instance_id(config.pin_path),
        flags_of(config),
        snat_first=first,
        snat_count=last - first + 1,
        timeout=encode_timeouts(timeouts(_configured(config))),
        forward_mark=forward_mark,
        middle_first=middle_first,
        middle_count=middle_last - middle_first + 1,
    )


def ports_beside(first: int, last: int) -> tuple[int, int]:
    """The largest range of ports below the node ports that shares none with ``first``-``last``.

    Where that leaves none: the ports above those that kernels give to sockets of themselves.
    """
    lowest, highest = 1024, NODE_PORTS[0] - 1
    ranges = ((lowest, min(first - 1, highest)), (max(last + 1, lowest), highest))
    found = max(ranges, key=lambda ports: ports[1] - ports[0])
    return found if found[0] <= found[1] else (61000, 65535)


def owner_of(config: Config, host_netns: int) -> Owner:
    """By what the instance of this configuration is recognised in the kernel."""
    return Owner(_instance_id(config.pin_path), host_netns)


def reservation_of(config: Config) -> PortReservation:
    """Where this instance notes which ports it reserved."""
    instance = f"{_instance_id(config.pin_path):016x}"
    return PortReservation(Path(config.state_path) / instance / "reserved-ports.json")


def socket_entries(config: Config) -> dict[str, int]:
    """Entries of the maps of the socket path, which those of the packets share."""
    sizes = config.map_sizes
    return {
        "kpb_vips": sizes.vips,
        "kpb_frontends": sizes.frontends,
        "kpb_services": sizes.services,
        "kpb_records": sizes.records,
        "kpb_slots": sizes.slots,
        "kpb_backends": sizes.backends,
        "kpb_affinity": sizes.affinity,
        "kpb_tcp_origin": sizes.origins,
        # It costs memory for each processor.
        "kpb_traffic": sizes.services if config.service_traffic else 1,
    }


def packet_entries(config: Config) -> dict[str, int]:
    """Entries of the maps of the packet path, by map, where not those of the object."""
    flows = flows_of(config)
    sizes = config.map_sizes
    return {
        "kpb_flows": flows,
        "kpb_flow_queue": flows,
        "kpb_stats": sizes.services,
    }


def flows_of(config: Config) -> int:
    """Entries of the flow table."""
    return config.max_flows or default_flows(_memory_bytes())


def flags_of(config: Config) -> ConfigFlags:
    """The switches of the programs."""
    ipv4, ipv6 = config.local_detector_families()
    dsr = config.forwarding != "snat"
    switches = {
        ConfigFlags.TCP_ORIGIN: config.tcp_origin,
        ConfigFlags.POD_SHORTCUT_IPV4: ipv4,
        ConfigFlags.POD_SHORTCUT_IPV6: ipv6,
        ConfigFlags.MASQUERADE_ALL: config.masquerade_all,
        ConfigFlags.PRESERVE_SOURCE: config.local_source == "preserve",
        ConfigFlags.DSR_TCP: dsr,
        ConfigFlags.DSR_UDP: config.forwarding == "dsr",
        ConfigFlags.REDIRECT_PEER: config.redirect_peer,
        ConfigFlags.DETECT_BY_CIDR: config.detect_local_mode in ("ClusterCIDR", "NodeCIDR"),
        ConfigFlags.SERVICE_TRAFFIC: config.service_traffic,
    }
    flags = ConfigFlags(0)
    for flag, wanted in switches.items():
        if wanted:
            flags |= flag
    return flags


def _configured(config: Config) -> dict[TrackState, float]:
    given = config.conntrack
    return {
        TrackState.TCP_ESTABLISHED: given.tcp_established_s,
        TrackState.TCP_CLOSING: given.tcp_close_wait_s,
        TrackState.UDP_NEW: given.udp_s,
        TrackState.UDP_REPLIED: given.udp_stream_s,
    }


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _instance_id(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
