# SPDX-License-Identifier: Apache-2.0
"""The packet path's flows in /metrics."""

from kubeproxy_bpf.serve.flows import FlowReading, ServiceReading
from kubeproxy_bpf.serve.metrics import Reading, render


def text(flows):
    return render(Reading({}, {}, 0, 0, 0.0, flows=flows))[0].decode()


def test_the_table_and_its_busiest_services_are_shown():
    """How full the table is, and per service port what was made, refused, and why."""
    web = ServiceReading(("ns", "web", "http", "TCP", "IPv4"), 7, 2, 1)
    shown = text(FlowReading(10, 100, 3, (web,)))

    labels = '{family="IPv4",namespace="ns",port="http",protocol="TCP",service="web"}'
    for line in (
        'kubeproxy_bpf_map_entries{map="flows"} 10.0',
        'kubeproxy_bpf_map_capacity{map="flows"} 100.0',
        "kubeproxy_bpf_flows_swept_total 3.0",
        f"kubeproxy_bpf_service_flows_total{labels} 7.0",
        f"kubeproxy_bpf_service_snat_exhausted_total{labels} 2.0",
        f"kubeproxy_bpf_service_rejected_total{labels} 1.0",
    ):
        assert line in shown.splitlines()


def test_without_a_packet_path_nothing_is_claimed():
    """A table that does not exist is not an empty one."""
    assert "map_capacity" not in text(FlowReading())
