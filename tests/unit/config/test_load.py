# SPDX-License-Identifier: Apache-2.0
"""Flags and file become one Config, or a list of every problem."""

import pytest

from kubeproxy_bpf.config.load import load
from kubeproxy_bpf.errors import ConfigError

KUBEADM = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
configSyncPeriod: 0s
conntrack: {maxPerCore: null, min: null}
detectLocal: {bridgeInterface: "", interfaceNamePrefix: ""}
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables: {localhostNodePorts: null, masqueradeAll: false, minSyncPeriod: 0s, syncPeriod: 0s}
logging: {flushFrequency: 0, verbosity: 0}
mode: ""
nodePortAddresses: null
portRange: ""
"""


def test_the_file_that_kubeadm_writes_means_defaults(tmp_path):
    """Nulls and zero values count as unset."""
    path = tmp_path / "config.conf"
    path.write_text(KUBEADM)

    config = load([f"--config={path}", "--hostname-override=Node-1"])

    assert "node-1" == config.hostname
    assert "/var/lib/kube-proxy/kubeconfig.conf" == config.kubeconfig
    assert "0.0.0.0:10256" == config.healthz_bind_address
    assert (True, True) == config.local_detector_families()
    assert config.localhost_node_ports


def test_a_file_replaces_flags_but_not_ours(tmp_path):
    """With --config other flags have no effect, except those honoured beside a file."""
    path = tmp_path / "config.conf"
    path.write_text("kind: KubeProxyConfiguration\nbindAddress: '::'\n")

    config = load(
        [f"--config={path}", "--cluster-cidr=10.0.0.0/8", "--bpf-pin-path=/sys/fs/bpf/x/", "-v=3"]
    )

    assert "" == config.cluster_cidr
    assert "[::]:10256" == config.healthz_bind_address
    assert "/sys/fs/bpf/x" == config.pin_path
    assert 3 == config.verbosity


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--bind-address=nowhere"], "bindAddress"),
        (["--healthz-bind-address=1.2.3.4"], "healthzBindAddress"),
        (["--cluster-cidr=10.0.0.0"], "clusterCIDR"),
        (["--detect-local-mode=Guess"], "detectLocalMode"),
        (["--detect-local-mode=BridgeInterface"], "bridgeInterface"),
        (["--detect-local-mode=InterfaceNamePrefix"], "interfaceNamePrefix"),
        (["--nodeport-addresses=primary,10.0.0.0/8"], "nodePortAddresses"),
        (["--nodeport-addresses=10.0.0.300/8"], "nodePortAddresses"),
        (["--proxy-mode=userspace"], "userspace"),
        (["--hostname-override= "], "--hostname-override"),
        (["--logging-format=xml"], "--logging-format"),
        (["--iptables-sync-period=0s"], "syncPeriod"),
        (["--iptables-min-sync-period=31s"], "minSyncPeriod"),
        (["--bpf-max-slots=0"], "slots"),
        (["--config=/nonexistent/file"], "/nonexistent/file"),
    ],
)
def test_what_does_not_hold_is_named(argv, words):
    """Each bad setting gives a problem that names it."""
    with pytest.raises(ConfigError) as caught:
        load(argv)

    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "not a YAML object"),
        ("kind: Other", "kind"),
        ("a: [", "config"),
        ("kind: KubeProxyConfiguration\nmode: 7", "mode"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path, text, words):
    """A document that is not a KubeProxyConfiguration is named with its path."""
    path = tmp_path / "config.conf"
    path.write_text(text)

    with pytest.raises(ConfigError) as caught:
        load([f"--config={path}"])

    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_mode_of_the_file_is_judged_like_the_flag(tmp_path):
    """All modes of kube-proxy are accepted, as eBPF is used anyway; others are mistakes."""
    path = tmp_path / "config.conf"
    path.write_text("kind: KubeProxyConfiguration\nmode: ipvs\n")
    load([f"--config={path}"])
    path.write_text("kind: KubeProxyConfiguration\nmode: userspace\n")

    with pytest.raises(ConfigError, match="userspace"):
        load([f"--config={path}"])


def test_every_problem_is_reported_at_once():
    """An operator sees all that is wrong in one run."""
    with pytest.raises(ConfigError) as caught:
        load(["--bind-address=x", "--cluster-cidr=y"])

    assert 2 == len(caught.value.problems)


def test_without_a_cluster_cidr_pods_cannot_be_told_apart():
    """E10: in ClusterCIDR mode a family without a CIDR has no local detector."""
    assert (False, False) == load([]).local_detector_families()
    assert (True, False) == load(["--cluster-cidr=10.0.0.0/8"]).local_detector_families()
    assert (True, True) == load(["--detect-local-mode=NodeCIDR"]).local_detector_families()


def test_uplinks_are_named_in_a_list_and_xdp_by_a_word():
    """Nothing said means: look for uplinks, and no XDP."""
    assert ((), "off") == (load([]).devices, load([]).xdp)
    config = load(["--bpf-devices=eth0,ens*", "--bpf-xdp=native"])
    assert (("eth0", "ens*"), "native") == (config.devices, config.xdp)
    with pytest.raises(ConfigError, match="xdp"):
        load(["--bpf-xdp=offload"])
