# SPDX-License-Identifier: Apache-2.0
"""Flags and file fields that decide about packets."""

import pytest

from kubeproxy_bpf.config.load import load
from kubeproxy_bpf.config.schema import ConntrackTimeouts
from kubeproxy_bpf.errors import ConfigError

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"


@pytest.fixture
def load_file(tmp_path):
    def load_text(text, *flags):
        path = tmp_path / "config.conf"
        path.write_text(f"{HEAD}{text}")
        return load([f"--config={path}", *flags])

    return load_text


def test_without_flags_packets_go_as_behind_kube_proxy():
    """A stock configuration masquerades for local backends, chooses at random, and uses SNAT."""
    config = load([])

    assert ("masquerade", "snat", "random") == (
        config.local_source,
        config.forwarding,
        config.algorithm,
    )
    assert not (config.masquerade_all or config.redirect_peer or config.service_traffic)


def test_our_flags_count_beside_a_file(load_file):
    """The file knows nothing of --bpf-*, so they hold with it too."""
    config = load_file(
        "",
        "--bpf-local-source=preserve",
        "--bpf-snat-ports=1024-9999",
        "--bpf-forwarding=hybrid",
        "--bpf-algorithm=maglev",
        "--bpf-redirect-peer",
        "--bpf-max-flows=4096",
        "--bpf-service-traffic",
    )

    assert "preserve" == config.local_source
    assert (1024, 9999) == config.snat_ports
    assert ("hybrid", "maglev") == (config.forwarding, config.algorithm)
    assert config.redirect_peer and config.service_traffic
    assert 4096 == config.max_flows


def test_the_last_range_of_ports_counts():
    """A range given twice replaces the first; it is no list."""
    assert (2000, 2999) == load(["--bpf-snat-ports=1-2", "--bpf-snat-ports=2000-2999"]).snat_ports


@pytest.mark.parametrize(
    ("text", "masquerade"),
    [
        ("iptables: {masqueradeAll: true}", True),
        ("nftables: {masqueradeAll: true}", False),
        ("mode: nftables\nnftables: {masqueradeAll: true}", True),
        ("mode: nftables\niptables: {masqueradeAll: true}", False),
    ],
)
def test_masquerade_all_is_that_of_the_mode(load_file, text, masquerade):
    """Each mode of kube-proxy has a section, and only the one in use counts."""
    assert masquerade == load_file(text).masquerade_all


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("mode: nftables", ("primary",)),
        ("mode: nftables\nnodePortAddresses: []", ("primary",)),
        ("mode: nftables\nnodePortAddresses: [10.0.0.0/8]", ("10.0.0.0/8",)),
        ("mode: iptables", ()),
        ("", ()),
    ],
)
def test_in_nftables_mode_node_ports_are_those_of_the_primary_address(load_file, text, addresses):
    """F14: a cluster that runs with nftables does not serve them on other addresses by default."""
    assert addresses == load_file(text).node_port_addresses


def test_the_mode_counts_as_a_flag_too():
    """F14 without a file."""
    assert ("primary",) == load(["--proxy-mode=nftables"]).node_port_addresses
    assert () == load(["--proxy-mode=ipvs"]).node_port_addresses


def test_time_outs_of_the_file_have_kube_proxys_defaults(load_file):
    """Null means the default, "0s" the kernel's own time-out."""
    config = load_file(
        "conntrack: {tcpEstablishedTimeout: null, tcpCloseWaitTimeout: 0s, udpStreamTimeout: 3m}"
    )

    assert ConntrackTimeouts(86400.0, 0.0, 0.0, 180.0) == config.conntrack


def test_time_outs_come_from_flags_too():
    """Without a file the flags of kube-proxy decide."""
    config = load(
        [
            "--conntrack-tcp-timeout-established=2h",
            "--conntrack-tcp-timeout-close-wait=10s",
            "--conntrack-udp-timeout=1s",
            "--conntrack-udp-timeout-stream=2s",
        ]
    )

    assert ConntrackTimeouts(7200.0, 10.0, 1.0, 2.0) == config.conntrack


@pytest.mark.parametrize(
    "flag",
    [
        "--bpf-local-source=keep",
        "--bpf-forwarding=ipip",
        "--bpf-algorithm=lru",
        "--bpf-snat-ports=0-100",
        "--bpf-snat-ports=200-100",
        "--bpf-snat-ports=60000-65536",
        "--bpf-snat-ports=20000-30000",
        "--bpf-snat-ports=32767-40000",
        "--bpf-snat-ports=20000",
        "--bpf-max-flows=100",
        "--bpf-max-flows=16777217",
        "--bpf-service-metrics=-1",
        "--bpf-state-path=somewhere",
        "--bpf-snapshot-path=somewhere",
    ],
)
def test_what_does_not_hold_is_named(flag):
    """Each bad setting is refused by its name."""
    name = flag.partition("=")[0].removeprefix("--")
    with pytest.raises(ConfigError) as caught:
        load([flag])

    assert name in str(caught.value)


def test_a_time_out_of_the_file_that_is_none_is_named(load_file):
    """The problem carries the field's name in the file."""
    with pytest.raises(ConfigError, match="conntrack.udpStreamTimeout: time: invalid"):
        load_file("conntrack: {udpStreamTimeout: soon}")


def test_negative_time_outs_are_refused(load_file):
    """kube-proxy refuses them too, whatever their source, by the name of the field."""
    with pytest.raises(ConfigError, match="KubeProxyConntrackConfiguration.TCPEstablishedTimeout"):
        load_file("conntrack: {tcpEstablishedTimeout: -1s}")
    with pytest.raises(ConfigError, match="KubeProxyConntrackConfiguration.UDPTimeout"):
        load(["--conntrack-udp-timeout=-1s"])
