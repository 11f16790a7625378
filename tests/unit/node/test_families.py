# SPDX-License-Identifier: Apache-2.0
"""Families are read from /proc as kube-proxy reads them [I4]."""

import pytest

from kubeproxy_bpf.errors import UnsupportedKernel
from kubeproxy_bpf.model.types import Family
from kubeproxy_bpf.node.families import supported_families

BOTH, IPV4 = (Family.IPV4, Family.IPV6), (Family.IPV4,)


@pytest.mark.parametrize(
    ("if_inet6", "disabled", "expected"),
    [(True, "0", BOTH), (True, None, BOTH), (True, "1", IPV4), (False, None, IPV4)],
)
def test_ipv6_needs_the_kernel_and_no_switch(tmp_path, if_inet6, disabled, expected):
    """Without if_inet6, or with disable_ipv6 = 1, the node has IPv4 alone."""
    (tmp_path / "net").mkdir()
    if if_inet6:
        (tmp_path / "net/if_inet6").write_text("")
    if disabled is not None:
        switch = tmp_path / "sys/net/ipv6/conf/all/disable_ipv6"
        switch.parent.mkdir(parents=True)
        switch.write_text(f"{disabled}\n")

    assert expected == supported_families(proc=tmp_path)


def test_a_primary_family_that_is_missing_is_fatal(tmp_path):
    """A bindAddress of IPv6 on a node without IPv6 cannot work."""
    with pytest.raises(UnsupportedKernel, match="IPv6"):
        supported_families("::", tmp_path)
