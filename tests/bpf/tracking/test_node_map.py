# SPDX-License-Identifier: Apache-2.0
"""The node's entry in a real map."""

import pytest

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.dataplane.node import NodeFacts, NodeMap
from kubeproxy_bpf.instance import object_path
from kubeproxy_bpf.libbpf import BpfMap, BpfObject, MapType
from kubeproxy_bpf.model.addresses import parse_prefix

pytestmark = pytest.mark.root


def test_the_kernel_takes_the_entry():
    """Key and value have the sizes of the map that the programs declare."""
    bpf_object = BpfObject.open(object_path("packets.bpf.o"))
    try:
        item, btf = bpf_object.maps["kpb_node"], bpf_object.btf
        with BpfMap.create(MapType.ARRAY, "kpb_node", item.key_size, item.value_size, 1) as real:
            facts = NodeFacts(
                parse_address("192.0.2.1"), service_cidrs=(parse_prefix("10.96.0.0/12"),)
            )
            NodeMap(real, btf).write(facts)
            raw = real.lookup(bytes(4))
    finally:
        bpf_object.close()

    assert parse_address("192.0.2.1") == raw[:16]
