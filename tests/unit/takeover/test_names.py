# SPDX-License-Identifier: Apache-2.0
"""What bears a name of kube-proxy's, and what only looks like it."""

from __future__ import annotations

import pytest

from kubeproxy_bpf.host import forward
from kubeproxy_bpf.takeover.names import ACCEPT_CHAIN, IPSETS, JUMPS, is_chain


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("nat", "KUBE-SERVICES"),
        ("nat", "KUBE-SVC-ERIFXISQEP7F7OF4"),
        ("nat", "KUBE-SVL-ERIFXISQEP7F7OF4"),
        ("nat", "KUBE-SEP-ERIFXISQEP7F7OF4"),
        ("nat", "KUBE-FW-ERIFXISQEP7F7OF4"),
        ("nat", "KUBE-EXT-ERIFXISQEP7F7OF4"),
        ("filter", "KUBE-FORWARD"),
        ("mangle", "KUBE-PROXY-CANARY"),
    ],
)
def test_chains_of_kube_proxy(table, name):
    """Every kind of chain is known in its table."""
    assert is_chain(table, name)


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("filter", "KUBE-FIREWALL"),
        ("mangle", "KUBE-IPTABLES-HINT"),
        ("nat", "KUBE-KUBELET-CANARY"),
        ("nat", "KUBE-MARK-DROP"),
        ("nat", "KUBE-SVC-ERIFXISQEP7F7OF"),
        ("nat", "KUBE-SVC-ERIFXISQEP7F7OF4X"),
        ("nat", "KUBE-SVC-erifxisqep7f7of4"),
        ("nat", "KUBE-SVC-ERIFXISQEP7F7OF1"),
        ("nat", "KUBE-ROUTER-SERVICES"),
        ("filter", "KUBE-SVC-ERIFXISQEP7F7OF4"),
        ("filter", "KUBE-POSTROUTING"),
        ("raw", "KUBE-SERVICES"),
        ("filter", "KUBE-NWPLCY-DEFAULT"),
        ("nat", "CNI-HOSTPORT-DNAT"),
    ],
)
def test_chains_of_others(table, name):
    """The kubelet's, a CNI's, and those that only begin or sound alike, or stand elsewhere."""
    assert not is_chain(table, name)


def test_jumps_lead_from_built_in_chains_to_chains_of_kube_proxy():
    """Nothing else may be taken out of a chain that is not kube-proxy's."""
    assert {chain for _, chain, _ in JUMPS} == {
        "PREROUTING",
        "INPUT",
        "FORWARD",
        "OUTPUT",
        "POSTROUTING",
    }
    assert all(is_chain(table, target) for table, _, target in JUMPS)


def test_sets_fit_into_the_kernels_31_characters():
    """As kube-proxy names them; none is lost by cutting."""
    assert len(IPSETS) == 2 * 17
    assert max(map(len, IPSETS)) <= 31
    assert "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS" in IPSETS


def test_the_chain_that_accepts_is_known_by_its_name():
    """The rules for FORWARD and the takeover speak of the same chain."""
    assert ACCEPT_CHAIN == forward.CHAIN
