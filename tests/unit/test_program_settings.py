# SPDX-License-Identifier: Apache-2.0
"""What a configuration means for the programs and the sizes of their maps."""

import pytest

from kubeproxy_bpf.config.load import load
from kubeproxy_bpf.dataplane import layout
from kubeproxy_bpf.dataplane.settings import ConfigFlags, Settings
from kubeproxy_bpf.dataplane.tracking import TICK_NS, TrackState
from kubeproxy_bpf.instance import object_path
from kubeproxy_bpf.libbpf import BpfObject
from kubeproxy_bpf.program_settings import (
    flags_of,
    packet_entries,
    ports_beside,
    settings_of,
    socket_entries,
)


@pytest.mark.parametrize(
    ("argv", "flags"),
    [
        ([], ConfigFlags.TCP_ORIGIN),
        (["--bpf-tcp-origin=false", "--masquerade-all"], ConfigFlags.MASQUERADE_ALL),
        (
            ["--bpf-local-source=preserve"],
            ConfigFlags.TCP_ORIGIN | ConfigFlags.PRESERVE_SOURCE,
        ),
        (
            ["--cluster-cidr=10.0.0.0/8"],
            ConfigFlags.TCP_ORIGIN | ConfigFlags.POD_SHORTCUT_IPV4,
        ),
        (["--bpf-redirect-peer"], ConfigFlags.TCP_ORIGIN | ConfigFlags.REDIRECT_PEER),
        (["--bpf-service-traffic"], ConfigFlags.TCP_ORIGIN | ConfigFlags.SERVICE_TRAFFIC),
        (
            ["--bpf-forwarding=hybrid"],
            ConfigFlags.TCP_ORIGIN | ConfigFlags.DSR_TCP,
        ),
        (
            ["--bpf-forwarding=dsr"],
            ConfigFlags.TCP_ORIGIN | ConfigFlags.DSR_TCP | ConfigFlags.DSR_UDP,
        ),
    ],
)
def test_flags_switch_what_they_name_and_nothing_else(argv, flags):
    """DSR brings the consistent choice with it: both nodes have to find the same backend."""
    assert flags | ConfigFlags.DETECT_BY_CIDR == flags_of(load(argv))


def test_ports_and_time_outs_reach_the_programs():
    """A range counts both of its ends."""
    config = load(["--bpf-snat-ports=1000-1999", "--conntrack-udp-timeout=10s"])
    settings = settings_of(config, 7)
    at = 4 * TrackState.UDP_NEW
    ticks = int.from_bytes(settings.timeout[at : at + 4], "little")

    assert (7, 1000, 1000) == (settings.host_netns, settings.snat_first, settings.snat_count)
    assert 10.0 <= ticks * TICK_NS / 1e9 < 10.2


@pytest.mark.parametrize(
    ("ports", "beside"),
    [
        ("10000-29999", (1024, 9999)),
        ("1024-9999", (10000, 29999)),
        ("5000-9000", (9001, 29999)),
        ("40000-49999", (1024, 29999)),
        ("1000-29999", (61000, 65535)),
        ("1-1100", (1101, 29999)),
    ],
)
def test_clients_that_need_another_port_get_none_of_ours(ports, beside):
    """Whatever range masqueraded flows have, packets in a client's name have one of their own."""
    first, last = map(int, ports.split("-"))
    assert beside == ports_beside(first, last)
    settings = settings_of(load([f"--bpf-snat-ports={ports}"]), 7)

    assert beside == (settings.middle_first, settings.middle_first + settings.middle_count - 1)


def test_every_flow_has_a_place_in_the_queue():
    """A flow that is not in the queue would never be judged."""
    config = load(["--bpf-max-flows=10000"])
    entries = packet_entries(config)

    assert 10000 == entries["kpb_flows"]
    assert 10000 == entries["kpb_flow_queue"]


@pytest.mark.parametrize(("argv", "entries"), [([], 1), (["--bpf-service-traffic"], 1000)])
def test_counts_of_traffic_cost_memory_only_where_they_are_wanted(argv, entries):
    """An entry for each Service and processor, or the smallest map there can be."""
    config = load(["--bpf-max-services=1000", *argv])

    assert entries == socket_entries(config)["kpb_traffic"]
    assert 1000 == socket_entries(config)["kpb_services"] == packet_entries(config)["kpb_stats"]


def test_settings_and_states_are_those_of_the_object():
    """The built object and these records agree by name, or the process would not start."""
    bpf_object = BpfObject.open(object_path("packets.bpf.o"))
    try:
        layout.check_enum(bpf_object.btf, "track_state", "STATE_", TrackState)
        layout.check_enum(bpf_object.btf, "config_flags", "CONFIG_", ConfigFlags)
        codec = layout.bind(bpf_object.btf, "kpb_config", Settings)
    finally:
        bpf_object.close()
    settings = settings_of(load([]), 1)

    assert settings == codec.decode(codec.encode(settings))
