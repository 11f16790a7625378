# SPDX-License-Identifier: Apache-2.0
"""Flags and file become one Config, or a list of every problem."""

import pytest

from kubeproxy_bpf.config.load import load
from kubeproxy_bpf.config.validate import split_host_port
from kubeproxy_bpf.errors import ConfigError

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"


def test_a_file_replaces_flags_but_not_ours(tmp_path):
    """With --config other flags have no effect, except those honoured beside a file."""
    path = tmp_path / "config.conf"
    path.write_text(f"{HEAD}bindAddress: '::'\n")

    config = load(
        [f"--config={path}", "--cluster-cidr=10.0.0.0/8", "--bpf-pin-path=/sys/fs/bpf/x/", "-v=3"]
    )

    assert "" == config.cluster_cidr
    assert "[::]:10256" == config.healthz_bind_address
    assert "/sys/fs/bpf/x" == config.pin_path
    assert 3 == config.verbosity


def test_every_problem_is_reported_at_once():
    """An operator sees all that is wrong in one run, theirs and ours."""
    with pytest.raises(ConfigError) as caught:
        load(["--proxy-mode=x", "--cluster-cidr=y", "--bpf-xdp=z", "--hostname-override= "])

    assert 4 == len(caught.value.problems)


def test_without_a_cluster_cidr_pods_cannot_be_told_apart():
    """E10: in ClusterCIDR mode a family without a CIDR has no local detector."""
    assert (False, False) == load([]).local_detector_families()
    assert (True, False) == load(["--cluster-cidr=10.0.0.0/8"]).local_detector_families()
    assert (True, True) == load(["--detect-local-mode=NodeCIDR"]).local_detector_families()


def test_addresses_of_servers_are_taken_apart():
    """For those who listen there."""
    assert ("0.0.0.0", 80) == split_host_port("0.0.0.0:80")
    assert ("::", 10256) == split_host_port("[::]:10256")


def test_uplinks_are_named_in_a_list_and_xdp_by_a_word():
    """Nothing said means: look for uplinks, and no XDP."""
    assert ((), "off") == (load([]).devices, load([]).xdp)
    config = load(["--bpf-devices=eth0,ens*", "--bpf-xdp=native"])
    assert (("eth0", "ens*"), "native") == (config.devices, config.xdp)
    with pytest.raises(ConfigError, match="xdp"):
        load(["--bpf-xdp=offload"])
