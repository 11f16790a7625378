# SPDX-License-Identifier: Apache-2.0
"""Settings of our own stand in a document of their own, and flags beat it."""

import pytest

from kubeproxy_bpf.config import own
from kubeproxy_bpf.config.load import FLAGS, load, read
from kubeproxy_bpf.errors import ConfigError

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
OWN_HEAD = f"apiVersion: {own.API_VERSION}\nkind: {own.KIND}\n"
ALL = """\
takeover: report
forwardAccept: off
pins: on
cgroupRoot: /cgroup
pinPath: /pins
statePath: /state
snapshotPath: /snapshot
auditPeriod: 5s
tcpOrigin: false
localSource: preserve
snatPorts: 1024-2047
forwarding: dsr
devices: [eth0, "ens*"]
xdp: auto
algorithm: maglev
redirectPeer: true
maxFlows: 2048
serviceMetrics: 5
serviceTraffic: true
maxFrontends: 10
maxServices: 11
maxSlots: 12
maxBackends: 13
maxAffinity: 14
"""


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="bpf.conf", head=OWN_HEAD):
        path = tmp_path / name
        path.write_text(head + text)
        return path

    return write_file


def test_every_setting_may_stand_in_the_file(write):
    """Each with another value than the default."""
    config = load([f"--bpf-config={write(ALL)}"])

    assert ("report", "off", "on") == (config.takeover, config.forward_accept, config.pins)
    assert ("/cgroup", "/pins", "/state") == (
        config.cgroup_root,
        config.pin_path,
        config.state_path,
    )
    assert ("preserve", "dsr", "auto", "maglev") == (
        config.local_source,
        config.forwarding,
        config.xdp,
        config.algorithm,
    )
    assert (False, True) == (config.tcp_origin, config.redirect_peer)
    assert ((1024, 2047), ("eth0", "ens*")) == (config.snat_ports, config.devices)
    assert (2048, 5) == (config.max_flows, config.service_metrics)
    assert config.service_traffic and config.audit_period_s == 5
    assert config.snapshot_path == "/snapshot"
    sizes = config.map_sizes
    assert (10, 11, 22, 12, 13, 14) == (
        sizes.frontends,
        sizes.services,
        sizes.records,
        sizes.slots,
        sizes.backends,
        sizes.affinity,
    )


def test_the_sample_holds_every_setting():
    """So that none goes untested."""
    names = {line.partition(":")[0] for line in ALL.splitlines()}
    assert {own.field_of(flag) for flag in own.SETTINGS} == names


def test_a_file_beside_that_of_kube_proxy_is_found(write):
    """One more key of the ConfigMap is enough; without --config nobody looks."""
    path = write("xdp: native\n")
    stock = write("", "config.conf", HEAD)

    config = load([f"--config={stock}"])

    assert ("native", str(path)) == (config.xdp, config.own_config_path)
    assert ("off", "") == (load([]).xdp, load([]).own_config_path)


def test_a_named_file_takes_the_place_of_the_one_beside(write):
    """Only one is read."""
    write("xdp: native\n")
    named = write("algorithm: maglev\n", "other.conf")
    stock = write("", "config.conf", HEAD)

    config = load([f"--config={stock}", f"--bpf-config={named}"])

    assert ("off", "maglev") == (config.xdp, config.algorithm)


def test_flags_beat_the_file_also_with_their_defaults(write):
    """What is said on the command line counts."""
    path = write("xdp: native\nalgorithm: maglev\ndevices: [eth0]\n")

    config = load([f"--bpf-config={path}", "--bpf-xdp=off", "--bpf-devices=eth1"])

    assert ("off", "maglev", ("eth1",)) == (config.xdp, config.algorithm, config.devices)


def test_what_counts_of_the_file_is_logged(write):
    """A file that nobody named should not be a surprise."""
    path = write("xdp: native\nalgorithm: maglev\n")

    [note] = read(FLAGS.parse([f"--bpf-config={path}", "--bpf-xdp=off"])).notes

    assert "own_settings_read" == note.event
    assert {"path": str(path), "settings": ["bpf-algorithm"]} == note.fields


def test_null_says_nothing(write):
    """As in the file of kube-proxy."""
    assert "off" == load([f"--bpf-config={write('xdp: null')}"]).xdp


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("xpd: native", 'unknown field "xpd"'),
        ("xdp: native\nxdp: auto", 'line 4: key "xdp" already set in map'),
        ("xdp: on", '--bpf-xdp: "on" is none of'),
        ("maxFlows: many", "maxFlows: wants number, not string"),
        ("maxFlows: 1.5", 'maxFlows: strconv.ParseInt: parsing "1.5": invalid syntax'),
        ("maxFlows: 4294967296", "value out of range"),
        ("tcpOrigin: 1", "tcpOrigin: wants bool, not number"),
        ("devices: eth0", "devices: wants array, not string"),
        ("devices: [1]", "devices: must hold strings only"),
        ("snatPorts: 5", "snatPorts: wants string, not number"),
        ("snatPorts: 5000", "snatPorts: wants string, not number"),
        ("snatPorts: some", 'snatPorts: "some" is not first-last'),
        ("xdp: offload", '--bpf-xdp: "offload" is none of'),
    ],
)
def test_what_does_not_hold_is_named(write, text, problem):
    """Strictly: nobody else writes this file."""
    with pytest.raises(ConfigError) as caught:
        load([f"--bpf-config={write(text)}"])

    assert problem in str(caught.value)


def test_all_problems_of_the_file_come_together(write):
    """With those of the other file."""
    path = write("a: 1\nb: 2\nmaxFlows: x\n", head="kind: Pod\n")
    with pytest.raises(ConfigError) as caught:
        load([f"--bpf-config={path}", "--proxy-mode=x"])

    assert 6 == len(caught.value.problems)


def test_a_named_file_has_to_be_there(tmp_path):
    """Unlike the one beside that of kube-proxy."""
    with pytest.raises(ConfigError, match="missing.conf"):
        load([f"--bpf-config={tmp_path / 'missing.conf'}"])
