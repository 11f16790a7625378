# SPDX-License-Identifier: Apache-2.0
"""A configuration file is read strictly, then leniently, as kube-proxy reads it."""

import json
from pathlib import Path

import pytest
import yaml

from kubeproxy_bpf.config.decode import read_document
from kubeproxy_bpf.config.document import KubeProxyConfiguration, to_plain, to_yaml
from kubeproxy_bpf.config.load import load
from kubeproxy_bpf.errors import ConfigError

KUBEADM = Path(__file__).with_name("data") / "kubeadm-config.conf"
HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"


@pytest.fixture
def read(tmp_path):
    def read_text(text, head=HEAD):
        path = tmp_path / "config.conf"
        path.write_text(head + text)
        return read_document(str(path))

    return read_text


@pytest.fixture
def problems(read):
    def problems_of(text, head=HEAD):
        with pytest.raises(ConfigError) as caught:
            read(text, head)
        return [problem.split("config.conf: ")[1] for problem in caught.value.problems]

    return problems_of


def test_the_file_that_kubeadm_writes_is_strictly_right():
    """Nothing in it is overlooked, and nothing of it but three fields says anything."""
    decoded = read_document(str(KUBEADM))
    expected = KubeProxyConfiguration()
    expected.bind_address = "0.0.0.0"
    expected.cluster_cidr = "10.244.0.0/16,fd00:10:244::/56"
    expected.client_connection.kubeconfig = "/var/lib/kube-proxy/kubeconfig.conf"

    assert (expected, []) == decoded


def test_the_command_line_that_kubeadm_writes_gives_defaults():
    """Its two flags and its file mean what an empty configuration means, but for the cluster."""
    config = load([f"--config={KUBEADM}", "--hostname-override=Node-1"])
    usual = load(["--hostname-override=node-1", "--cluster-cidr=10.244.0.0/16,fd00:10:244::/56"])

    assert "node-1" == config.hostname
    assert "/var/lib/kube-proxy/kubeconfig.conf" == config.kubeconfig
    assert (True, True) == config.local_detector_families()
    for field in config.__struct_fields__:
        if field not in ("kubeconfig", "config_path", "document", "flag_values"):
            assert getattr(usual, field) == getattr(config, field), field


def test_json_is_read_too(read):
    """A document in braces may be either."""
    document = {**yaml.safe_load(HEAD), "mode": "ipvs", "conntrack": {"min": 7}}

    decoded = read(json.dumps(document, indent="\t"), head="")
    assert ("ipvs", 7, []) == (decoded.document.mode, decoded.document.conntrack.min, decoded[1])
    flow = "{apiVersion: kubeproxy.config.k8s.io/v1alpha1, kind: KubeProxyConfiguration, mode: x}"
    assert "x" == read(flow, head="").document.mode


def test_what_is_written_is_read_again(read):
    """A document with something in every field survives."""
    text = KUBEADM.read_text().replace("null", "[]").replace("0s", "1m30s")
    for name in ("maxPerCore", "min", "masqueradeBit", "oomScoreAdj"):
        text = text.replace(f" {name}: []", f" {name}: 5").replace(f"\n{name}: []", f"\n{name}: 5")
    text = text.replace("localhostNodePorts: []", "localhostNodePorts: true")
    text = text.replace("Timeout: []", "Timeout: 250ms").replace("flushFrequency: 0", "vmodule: []")
    document = read(text + "featureGates: {AllBeta: true}\n", head="").document

    assert document == read(to_yaml(to_plain(document)), head="").document


def test_unknown_and_repeated_fields_are_overlooked_and_told(read):
    """Each with its place; of two values the last one counts."""
    decoded = read(
        "mode: ipvs\nmode: nftables\nudpIdleTimeout: 5s\n"
        "conntrack:\n  max: 3\n  min: 4\n"
        "logging: {vmodule: [{filePattern: a, verbosity: 1, level: 2}]}\n"
    )

    assert ("nftables", 4) == (decoded.document.mode, decoded.document.conntrack.min)
    assert [
        'line 4: key "mode" already set in map',
        'unknown field "udpIdleTimeout"',
        'unknown field "conntrack.max"',
        'unknown field "logging.vmodule[0].level"',
    ] == decoded.overlooked


def test_repeated_fields_of_json_are_told(read):
    """As those of YAML."""
    text = '{"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "mode": "a", "mode": "b", '
    decoded = read(text + '"kind": "KubeProxyConfiguration"}', head="")

    assert ("b", ['key "mode" already set in map']) == (decoded.document.mode, decoded.overlooked)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mode: 7", "mode: Expected `str`, got `int`"),
        ("conntrack: {min: many}", "conntrack.min: Expected `int | null`, got `str`"),
        ("conntrack: {min: 2147483648}", "conntrack.min: Expected `int` <= 2147483647"),
        (
            "conntrack: {udpTimeout: 5}",
            "conntrack.udpTimeout: expected a text, got number",
        ),
        (
            "conntrack: {udpTimeout: 5x}",
            'conntrack.udpTimeout: time: unknown unit "x" in duration "5x"',
        ),
        (
            "nodePortAddresses: [1]",
            "nodePortAddresses[0]: Expected `str`, got `int`",
        ),
        ("featureGates: {A: yes please}", "featureGates[...]: Expected `bool`, got `str`"),
        ("logging: {verbosity: -1}", "logging.verbosity: Expected `int` >= 0"),
        ("iptables: []", "iptables: Expected `object`, got `array`"),
    ],
)
def test_what_no_reader_can_use_is_named(problems, text, problem):
    """A value of the wrong type has the path of its field."""
    assert [problem] == problems(text)


def test_all_wrong_types_are_told_at_once(problems):
    """One for each field at the top."""
    assert 3 == len(problems("mode: 1\nclusterCIDR: 2\nportRange: 3\n"))


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        ("kind: KubeProxyConfiguration", "apiVersion: must be"),
        ("apiVersion: v1\nkind: KubeProxyConfiguration", "apiVersion: must be"),
        ("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: Pod", "kind: must be"),
        ("[1]", "is not an object"),
        ("", "is not an object"),
        ("a: [", "while parsing"),
        ("a: 1\n---\nkind: KubeProxyConfiguration", "apiVersion: must be"),
    ],
)
def test_a_file_of_another_kind_is_refused(problems, head, problem):
    """There is one version of it; of several documents the first counts, as in kube-proxy."""
    assert problem in problems("", head)[0]


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    """Missing, a directory, or no text."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "missing", tmp_path, binary):
        with pytest.raises(ConfigError, match=str(path)):
            read_document(str(path))


def test_texts_that_look_like_something_else_stay_texts(read):
    """Dates are no type of the document; addresses full of colons are texts anyway."""
    decoded = read("hostnameOverride: 2026-01-01\nbindAddress: '::'\n")

    assert ("2026-01-01", "::") == (
        decoded.document.hostname_override,
        decoded.document.bind_address,
    )


def test_a_flush_frequency_is_a_duration_or_nanoseconds(read):
    """kubeadm writes the integer 0, people write 5s; quantities may be numbers too."""
    logging = "logging: {flushFrequency: %s, options: {text: {infoBufferSize: %s}}}\n"

    first, second = read(logging % ("2500000000", "64")), read(logging % ("2.5s", "64Ki"))
    assert 2.5 == first.document.logging.flush_frequency
    assert 2.5 == second.document.logging.flush_frequency
    assert "64" == first.document.logging.options.text.info_buffer_size
    assert "64Ki" == second.document.logging.options.text.info_buffer_size
