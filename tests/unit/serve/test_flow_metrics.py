# SPDX-License-Identifier: Apache-2.0
"""The packet path's flows and devices in /metrics."""

import pytest

from kubeproxy_bpf.serve import devices, flows, services
from kubeproxy_bpf.serve.devices import DeviceReading
from kubeproxy_bpf.serve.flows import FlowReading
from kubeproxy_bpf.serve.services import ServiceReading, ServicesReading


def series(families):
    return {family.name: family.series for family in families}


def test_what_the_sweep_removed_is_shown():
    """How full the table is stands among the other maps."""
    shown = series(flows.families(FlowReading(10, 100, 3)))

    assert {"kubeproxy_bpf_flows_swept_total": {(): 3}} == shown


@pytest.mark.parametrize(
    ("packet_path", "traffic", "names"),
    [
        (False, False, ()),
        (True, False, ("flows", "snat_exhausted", "rejected")),
        (False, True, ("connections",)),
        (
            True,
            True,
            ("flows", "snat_exhausted", "rejected", "connections", "packets", "bytes"),
        ),
    ],
)
def test_of_services_is_shown_what_somebody_counts(packet_path, traffic, names):
    """A zero that nobody counted would be a lie; sockets are served without a packet path too."""
    web = ("ns", "web", "http", "TCP", "IPv4")
    counts = {
        "flows": 7,
        "snat_exhausted": 2,
        "rejected": 1,
        "connections": 9,
        "packets": 40,
        "bytes": 5000,
    }
    reading = ServicesReading(packet_path, traffic, (ServiceReading(web, **counts),))

    shown = series(services.families(reading))

    assert {f"kubeproxy_bpf_service_{n}_total": {web: counts[n]} for n in names} == shown


def test_without_a_packet_path_nothing_is_claimed():
    """A table that does not exist is not an empty one."""
    assert {} == series(flows.families(FlowReading()))


def test_devices_tell_where_programs_stand():
    """Each hook where a program belongs is 1 or 0, and each uplink has exactly one XDP mode."""
    reading = DeviceReading(
        loaded=True,
        attached=(("eth0", "ingress"), ("eth0", "egress")),
        put_back={("eth0", "ingress"): 3},
        refused=(("tun0", "egress"),),
        xdp_modes={"eth0": "native"},
    )
    shown = series(devices.families(reading))

    assert {(): 1} == shown["kubeproxy_bpf_packet_path_loaded"]
    attached = {("eth0", "ingress"): 1, ("eth0", "egress"): 1, ("tun0", "egress"): 0}
    assert attached == shown["kubeproxy_bpf_device_attached"]
    assert {("eth0", "ingress"): 3} == shown["kubeproxy_bpf_device_reattachments_total"]
    modes = {("eth0", "native"): 1, ("eth0", "generic"): 0, ("eth0", "none"): 0}
    assert modes == shown["kubeproxy_bpf_device_xdp_mode"]
