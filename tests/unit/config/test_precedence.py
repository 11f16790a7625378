# SPDX-License-Identifier: Apache-2.0
"""What counts: flags, file, or default; by kube-proxy's rules, field by field."""

import socket

import pytest

from kubeproxy_bpf.config.flags import KUBE_PROXY_FLAGS
from kubeproxy_bpf.config.load import FLAGS, load, read
from kubeproxy_bpf.errors import ConfigError

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

SAMPLES = {
    "hostname-override": ("Flag", "flag"),
    "kubeconfig": ("/flag", "/flag"),
    "kube-api-content-type": ("application/json", "application/json"),
    "kube-api-burst": ("7", 7),
    "kube-api-qps": ("7.5", 7.5),
    "config-sync-period": ("1m30s", "1m30s"),
    "feature-gates": ("AllBeta=true", {"AllBeta": True}),
    "bind-address": ("10.0.0.1", "10.0.0.1"),
    "healthz-bind-address": ("10.0.0.1:7", "10.0.0.1:7"),
    "metrics-bind-address": ("10.0.0.1:7", "10.0.0.1:7"),
    "bind-address-hard-fail": ("true", True),
    "profiling": ("true", True),
    "show-hidden-metrics-for-version": ("1.35", "1.35"),
    "oom-score-adj": ("7", 7),
    "proxy-mode": ("ipvs", "ipvs"),
    "iptables-masquerade-bit": ("7", 7),
    "masquerade-all": ("true", True),
    "iptables-localhost-nodeports": ("false", False),
    "iptables-sync-period": ("7s", "7s"),
    "iptables-min-sync-period": ("7s", "7s"),
    "ipvs-sync-period": ("7s", "7s"),
    "ipvs-min-sync-period": ("7s", "7s"),
    "ipvs-scheduler": ("lc", "lc"),
    "ipvs-exclude-cidrs": ("10.0.0.0/8", ["10.0.0.0/8"]),
    "ipvs-strict-arp": ("true", True),
    "ipvs-tcp-timeout": ("7s", "7s"),
    "ipvs-tcpfin-timeout": ("7s", "7s"),
    "ipvs-udp-timeout": ("7s", "7s"),
    "detect-local-mode": ("NodeCIDR", "NodeCIDR"),
    "pod-bridge-interface": ("br0", "br0"),
    "pod-interface-name-prefix": ("veth", "veth"),
    "cluster-cidr": ("10.0.0.0/8", "10.0.0.0/8"),
    "nodeport-addresses": ("10.0.0.0/8,fd00::/8", ["10.0.0.0/8", "fd00::/8"]),
    "conntrack-max-per-core": ("7", 7),
    "conntrack-min": ("7", 7),
    "conntrack-tcp-timeout-established": ("7s", "7s"),
    "conntrack-tcp-timeout-close-wait": ("7s", "7s"),
    "conntrack-tcp-be-liberal": ("true", True),
    "conntrack-udp-timeout": ("7s", "7s"),
    "conntrack-udp-timeout-stream": ("7s", "7s"),
    "v": ("7", 7),
    "vmodule": ("a=7", [{"filePattern": "a", "verbosity": 7}]),
    "logging-format": ("json", "json"),
    "log-flush-frequency": ("7s", "7s"),
    "log-text-split-stream": ("true", True),
    "log-json-split-stream": ("true", True),
    "log-text-info-buffer-size": ("7Ki", "7Ki"),
    "log-json-info-buffer-size": ("7Ki", "7Ki"),
}
WITH_FIELD = [known for known in KUBE_PROXY_FLAGS if known.field]


@pytest.fixture
def file(tmp_path):
    def write(text=""):
        path = tmp_path / "config.conf"
        path.write_text(HEAD + text)
        return f"--config={path}"

    return write


def shown(document, path):
    for name in path.split("."):
        document = document.get(name)
    return document


def needed(name):
    """What else has to be said for a flag to count."""
    if name.startswith("ipvs-") and "sync" in name:
        return ["--proxy-mode=ipvs"]
    return ["--feature-gates=LoggingAlphaOptions=true"] if name.startswith("log-") else []


def test_every_flag_with_a_field_has_a_sample():
    """So that no row of the table goes untested."""
    assert {known.flag.name for known in WITH_FIELD} == set(SAMPLES)


@pytest.mark.parametrize("known", WITH_FIELD, ids=lambda known: known.flag.name)
def test_without_a_file_a_flag_sets_its_field(known):
    """As /configz and --write-config-to show it."""
    text, value = SAMPLES[known.flag.name]
    config = load([f"--{known.flag.name}={text}", *needed(known.flag.name)])

    if known.flag.name == "hostname-override":
        assert value == config.hostname
    else:
        assert value == shown(config.document, known.field)
    assert known.flag.text(known.flag.type.parse(text)) == config.flag_values[known.flag.name]


@pytest.mark.parametrize("known", WITH_FIELD, ids=lambda known: known.flag.name)
def test_beside_a_file_a_flag_counts_as_the_table_says(known, file):
    """Those that do not are named in a warning, with the others."""
    text, value = SAMPLES[known.flag.name]
    argv = [f"--{known.flag.name}={text}", file("featureGates: {LoggingAlphaOptions: true}")]
    loaded = read(FLAGS.parse(argv))
    plain = load([file("featureGates: {LoggingAlphaOptions: true}")])

    if known.flag.name == "hostname-override":
        assert value == loaded.config.hostname
    elif known.beside:
        assert value == shown(loaded.config.document, known.field)
    else:
        assert plain.document == loaded.config.document
    ignored = [note.fields for note in loaded.notes if note.event == "flags_replaced_by_config"]
    assert ([] if known.beside else [{"flags": [f"--{known.flag.name}"]}]) == ignored


def test_logging_flags_beat_the_file_and_module_patterns_are_joined(file):
    """The flag's pattern comes first."""
    config = load(
        [
            "-v=9",
            "--vmodule=a=1",
            file("logging: {verbosity: 2, vmodule: [{filePattern: b, verbosity: 2}]}"),
        ]
    )

    assert 9 == config.verbosity
    assert [("a", 1), ("b", 2)] == [
        tuple(item.values()) for item in config.document["logging"]["vmodule"]
    ]


def test_the_host_name_of_the_flag_beats_that_of_the_file(file):
    """Trimmed and in small letters, wherever it comes from."""
    assert "flag" == load(["--hostname-override= Flag ", file("hostnameOverride: x")]).hostname
    assert "file" == load([file("hostnameOverride: ' File '")]).hostname


def test_without_an_override_the_host_has_a_name(monkeypatch):
    """In small letters; a host without one cannot be a node."""
    monkeypatch.setattr(socket, "gethostname", lambda: "Host")
    assert "host" == load([]).hostname
    monkeypatch.setattr(socket, "gethostname", lambda: " ")
    with pytest.raises(ConfigError, match="empty hostname is invalid"):
        load([])


@pytest.mark.parametrize(
    ("address", "healthz", "metrics"),
    [
        ("", "0.0.0.0:10256", "127.0.0.1:10249"),
        ("bindAddress: 10.0.0.1", "0.0.0.0:10256", "127.0.0.1:10249"),
        ("bindAddress: '::'", "[::]:10256", "[::1]:10249"),
        ("bindAddress: fd00::1", "[::]:10256", "[::1]:10249"),
        ("healthzBindAddress: fd00::1", "[fd00::1]:10256", "127.0.0.1:10249"),
        ("metricsBindAddress: 0.0.0.0", "0.0.0.0:10256", "0.0.0.0:10249"),
    ],
)
def test_addresses_of_servers_follow_the_family_of_the_file(file, address, healthz, metrics):
    """A bare address gets the usual port."""
    config = load([file(address)])

    assert (healthz, metrics) == (config.healthz_bind_address, config.metrics_bind_address)


def test_the_flag_of_the_address_does_not_move_the_servers():
    """It comes after the defaults."""
    assert "0.0.0.0:10256" == load(["--bind-address=::"]).healthz_bind_address


@pytest.mark.parametrize(
    ("argv", "healthz"),
    [
        (["--healthz-bind-address="], "0.0.0.0:10256"),
        (["--healthz-bind-address=10.0.0.1"], "10.0.0.1:10256"),
        (["--healthz-bind-address=fd00::1", "--healthz-port=7"], "[fd00::1]:7"),
        (["--healthz-port=7"], "0.0.0.0:10256"),
        (["--healthz-port=0"], ""),
    ],
)
def test_ports_of_their_own_are_for_addresses_without(argv, healthz):
    """The deprecated flags do no more than in kube-proxy; port 0 means no server."""
    assert healthz == load(argv).healthz_bind_address


def test_with_a_file_port_0_does_not_disable_health(file):
    """Nor does anything in the file."""
    argv = ["--healthz-port=0", file("healthzBindAddress: ''")]
    assert "0.0.0.0:10256" == load(argv).healthz_bind_address


@pytest.mark.parametrize(
    ("text", "sync", "least"),
    [
        ("", 30, 0),
        ("mode: nftables", 30, 0),
        ("mode: ipvs", 30, 0),
        ("iptables: {syncPeriod: 9s, minSyncPeriod: 2s}", 9, 2),
        ("mode: nftables\nnftables: {syncPeriod: 9s, minSyncPeriod: 1s}", 9, 1),
        ("mode: ipvs\nipvs: {syncPeriod: 9s, minSyncPeriod: 2s}", 9, 2),
        ("mode: ipvs\niptables: {syncPeriod: 9s, minSyncPeriod: 2s}", 30, 0),
    ],
)
def test_sync_periods_are_those_of_the_mode(file, text, sync, least):
    """Nothing said about the least means: at once."""
    config = load([file(text)])

    assert (sync, least) == (config.sync_period_s, config.min_sync_period_s)


@pytest.mark.parametrize(
    ("mode", "sync", "least"), [("iptables", 9, 2), ("nftables", 9, 2), ("ipvs", 30, 0)]
)
def test_the_sync_flags_of_iptables_are_those_of_nftables_too(mode, sync, least):
    """But not those of ipvs."""
    flags = ["--iptables-sync-period=9s", "--iptables-min-sync-period=2s"]
    config = load([f"--proxy-mode={mode}", *flags])

    assert (sync, least) == (config.sync_period_s, config.min_sync_period_s)


def test_what_the_mode_does_not_use_is_shown_as_unset():
    """As kube-proxy's own round trip through its internal type shows it."""
    document = load(["--proxy-mode=nftables", "--masquerade-all"]).document

    assert "0s" == document["iptables"]["syncPeriod"] == document["ipvs"]["syncPeriod"]
    assert "30s" == document["nftables"]["syncPeriod"]
    assert (False, True) == (
        document["iptables"]["masqueradeAll"],
        document["nftables"]["masqueradeAll"],
    )
    assert ["primary"] == document["nodePortAddresses"]


def test_sysctls_of_connection_tracking_are_told_apart_from_unset(file):
    """Null means the default, 0 leaves the kernel alone [J8]."""
    text = "conntrack: {maxPerCore: 0, min: null, tcpEstablishedTimeout: 0s, tcpBeLiberal: true}"
    sysctls = load([file(text)]).conntrack_sysctls

    assert (0, 131072) == (sysctls.max_per_core, sysctls.min)
    assert (0, 3600) == (sysctls.tcp_established_s, sysctls.tcp_close_wait_s)
    assert sysctls.tcp_be_liberal


def test_networks_and_addresses_are_handed_on_in_one_spelling(file):
    """Nobody behind this has to know of leading zeros."""
    text = "bindAddress: 010.0.0.1\nnodePortAddresses: [010.1.2.3/8]\nclusterCIDR: 10.244.1.1/16"
    config = load([file(text)])

    assert "10.0.0.1" == config.bind_address
    assert ("10.0.0.0/8",) == config.node_port_addresses
    assert "10.244.0.0/16" == config.cluster_cidr


def effects(*argv):
    loaded = read(FLAGS.parse(argv))
    return [
        note.fields["setting"] for note in loaded.notes if note.event == "setting_without_effect"
    ]


def test_usual_settings_are_not_worth_a_word(monkeypatch, file):
    """Neither defaults nor the values that kubeadm writes."""
    monkeypatch.delenv("GOGC", raising=False)
    assert [] == effects("--ipvs-scheduler=", "--ipvs-exclude-cidrs=", "--kube-api-qps=5")
    assert [] == effects(file("winkernel: {}\nipvs: {excludeCIDRs: []}"))


def test_settings_without_effect_are_told_one_by_one(monkeypatch, file):
    """From flags, from the file, and from the environment."""
    monkeypatch.setenv("GOGC", "50")
    path = file(
        "ipvs: {strictARP: true}\nportRange: '1-2'\nwinkernel: {enableDSR: true}\n"
        "featureGates: {NativeHistograms: true}\n"
    )

    assert [
        "--boot-id-file",
        "--ipvs-strict-arp, ipvs.strictARP",
        "--vmodule, logging.vmodule",
        "winkernel.enableDSR",
        "portRange",
        "featureGates.NativeHistograms",
        "GOGC",
    ] == effects("--boot-id-file=x", "--vmodule=a=1", path)


def test_what_a_file_says_too_much_is_told(file):
    """Once, with all of it."""
    loaded = read(FLAGS.parse([file("udpIdleTimeout: 1s\nmode: ipvs\nmode: ipvs\n")]))

    [note] = [note for note in loaded.notes if note.event == "config_decoded_leniently"]
    assert not note.warn
    assert 2 == len(note.fields["overlooked"])
