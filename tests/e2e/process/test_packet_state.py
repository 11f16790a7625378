# SPDX-License-Identifier: Apache-2.0
"""What a running proxy told the packet programs of its node, and what it learned from them."""

import json
import urllib.request
from pathlib import Path

import pytest

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.dataplane.layout import bind
from kubeproxy_bpf.dataplane.node import NodeRecord, PrefixRecord
from kubeproxy_bpf.instance import object_path
from kubeproxy_bpf.libbpf import BpfMap, BpfObject

from .test_process import Running

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory):
    running = Running(tmp_path_factory.mktemp("running"))
    try:
        running.until(lambda: running.get("/healthz")[0] == 200)
        yield running
    finally:
        running.close()


def node_entry(pins: Path):
    (pin,) = pins.glob("*/kpb_node")
    bpf_object = BpfObject.open(object_path("packets.bpf.o"))
    try:
        record, prefix = (
            bind(bpf_object.btf, name, kind)
            for name, kind in (("node", NodeRecord), ("prefix", PrefixRecord))
        )
        with BpfMap.open_pinned(pin) as real:
            entry = record.decode(real.lookup(bytes(4)))
        return entry, prefix.decode_all(entry.service_cidr)[: entry.service_cidrs]
    finally:
        bpf_object.close()


def test_the_service_cidrs_of_the_api_server_reach_the_programs(running):
    """The default ServiceCIDR object holds a CIDR of each family [H2]."""
    running.until(lambda: node_entry(running.pins)[1])
    _, cidrs = node_entry(running.pins)

    assert {parse_address("10.96.0.0"), parse_address("fd00:10:96::")} == {
        cidr.address for cidr in cidrs
    }


def test_the_address_of_a_deleted_service_goes_when_no_flow_needs_it(running):
    """It lingers for connections that go on [A13]; the sweep finds that there are none."""
    with urllib.request.urlopen(f"{running.master}/api/v1/services") as answer:
        service = json.load(answer)["items"][0]
    meta, address = service["metadata"], parse_address(service["spec"]["clusterIP"])
    (pin,) = running.pins.glob("*/kpb_vips")
    with BpfMap.open_pinned(pin) as vips:
        assert vips.lookup(address) is not None
        path = f"/api/v1/namespaces/{meta['namespace']}/services/{meta['name']}"
        request = urllib.request.Request(running.master + path, method="DELETE")
        urllib.request.urlopen(request).close()
        running.until(lambda: vips.lookup(address) is None)


def test_the_size_of_the_flow_table_is_a_metric(running):
    """Its fill level means something only beside its capacity."""
    with urllib.request.urlopen(f"http://127.0.0.1:{running.metrics_port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("kubeproxy_bpf_map_"))

    assert 1024 <= float(values['kubeproxy_bpf_map_capacity{map="flows"}'])
    assert 0 <= float(values['kubeproxy_bpf_map_entries{map="flows"}'])
    assert any(line.startswith("kubeproxy_bpf_flows_swept_total ") for line in lines)
    assert any('reason="packet_unused_address"' in line for line in lines)
