# SPDX-License-Identifier: Apache-2.0
"""Before which rules of FORWARD ours belong."""

import pytest

from kubeproxy_bpf.host.forward import accept_rules, is_closed, is_wanted

OPEN = ["-P FORWARD ACCEPT"]
DROP = ["-P FORWARD DROP", "-A FORWARD -j DOCKER-USER"]
REJECT = ["-P FORWARD ACCEPT", "-A FORWARD -j REJECT --reject-with icmp-host-prohibited"]
COMMENTED = [
    "-P FORWARD ACCEPT",
    '-A FORWARD -m comment --comment "all the rest" -j DROP',
]
NARROW = ["-P FORWARD ACCEPT", "-A FORWARD -i eth9 -j DROP", "-A FORWARD -j DROPPED"]
KUBE_PROXY = [
    "-P FORWARD ACCEPT",
    '-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD',
]
OURS = ["-P FORWARD ACCEPT", "-A FORWARD -j KUBE-PROXY-BPF-FORWARD"]


@pytest.mark.parametrize(
    "forward, closed",
    [
        (OPEN, False),
        (DROP, True),
        (REJECT, True),
        (COMMENTED, True),
        (NARROW, False),
        (KUBE_PROXY, False),
        ([], False),
    ],
)
def test_forward_is_closed_by_its_policy_or_by_a_rule_for_all(forward, closed):
    """A rule that drops some does not close it for Services."""
    assert closed is is_closed(forward)


@pytest.mark.parametrize(
    "mode, forward, preferred, wanted",
    [
        ("auto", OPEN, True, False),
        ("auto", DROP, True, True),
        ("auto", DROP, False, True),
        ("auto", REJECT, True, True),
        ("auto", KUBE_PROXY, True, True),
        ("auto", OURS, True, True),
        ("on", OPEN, True, True),
        ("on", OPEN, False, False),
        ("on", DROP, False, True),
        ("off", DROP, True, False),
        ("off", OURS, True, False),
    ],
)
def test_rules_stand_where_services_would_not_pass_without(mode, forward, preferred, wanted):
    """auto: where FORWARD drops, or a kube-proxy accepts; on: always; off: never."""
    assert wanted is is_wanted(mode, forward, preferred)


def test_mark_is_matched_as_a_bit():
    """Others use the other bits."""
    assert "-m mark --mark 0x4000/0x4000 -j ACCEPT" in accept_rules(1 << 14)[-1]
