# SPDX-License-Identifier: Apache-2.0
"""The packet path's flows and devices in /metrics."""

from kubeproxy_bpf.serve import devices, flows
from kubeproxy_bpf.serve.devices import DeviceReading
from kubeproxy_bpf.serve.flows import FlowReading, ServiceReading


def series(families):
    return {family.name: family.series for family in families}


def test_the_busiest_services_are_shown():
    """Per service port what was made, refused, and why."""
    web = ("ns", "web", "http", "TCP", "IPv4")
    shown = series(flows.families(FlowReading(10, 100, 3, (ServiceReading(web, 7, 2, 1),))))

    assert {
        "kubeproxy_bpf_flows_swept_total": {(): 3},
        "kubeproxy_bpf_service_flows_total": {web: 7},
        "kubeproxy_bpf_service_snat_exhausted_total": {web: 2},
        "kubeproxy_bpf_service_rejected_total": {web: 1},
    } == shown


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
