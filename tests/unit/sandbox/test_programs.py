# SPDX-License-Identifier: Apache-2.0
"""Backends, probes, manifests and expectations, without a sandbox."""

from __future__ import annotations

import errno
from collections import Counter
from pathlib import Path

import pytest

from kubeproxy_bpf.sandbox import backend, programs
from kubeproxy_bpf.sandbox.apiclient import read_manifests
from kubeproxy_bpf.sandbox.errors import SandboxError
from kubeproxy_bpf.sandbox.expect import REFUSED, always_one_of, each_of
from kubeproxy_bpf.sandbox.inventory import manifests
from kubeproxy_bpf.sandbox.layout import BACKEND_PORT, Layout
from kubeproxy_bpf.sandbox.probe import Target, failure_name
from kubeproxy_bpf.sandbox.tables import service_rows, table

PEER = ("10.0.0.1", 4711)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"", b"web-1"),
        (b"name\n", b"web-1"),
        (b"peer\n", b"web-1 10.0.0.1 4711"),
        (b"echo abc", b"echo abc"),
    ],
)
def test_backend_answers(request_: bytes, expected: bytes) -> None:
    """A backend says who it is, whom it sees, or what it was told."""
    assert backend.answer("web-1", request_, PEER) == expected


def test_backend_shows_mapped_peers_as_ipv4() -> None:
    """An IPv4 peer of the IPv6 socket is shown as people write it."""
    assert backend.plain(("::ffff:10.0.0.1", 1, 0, 0)) == ("10.0.0.1", 1)
    assert backend.plain(("fd00::1", 1, 0, 0)) == ("fd00::1", 1)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (errno.ECONNREFUSED, "refused"),
        (errno.EHOSTUNREACH, "unreachable"),
        (errno.EPERM, "forbidden"),
        (errno.EINVAL, "EINVAL"),
    ],
)
def test_failures_have_names(number: int, name: str) -> None:
    """Every failure of a connection has a short name; an unusual one keeps its errno's."""
    assert failure_name(OSError(number, "x")) == name


def test_targets_are_written_as_in_a_url() -> None:
    """An IPv6 address stands in brackets before its port."""
    assert str(Target("TCP", "fd00::1", 80)) == "[fd00::1]:80"
    assert str(Target("UDP", "10.0.0.1", 53)) == "10.0.0.1:53"


def test_expectations_can_fail() -> None:
    """An expectation fails when somebody is missing, when a stranger answers, and on no answer."""
    assert each_of("a", "b").holds(Counter("aab"))
    assert not each_of("a", "b").holds(Counter("aa"))
    assert not each_of("a", "b").holds(Counter("abc"))
    assert always_one_of("a", "b").holds(Counter("bb"))
    assert not always_one_of("a", "b").holds(Counter("ab"))
    assert not always_one_of("a", "b").holds(Counter("cc"))
    assert REFUSED.holds(Counter({"refused": 2}))
    assert not REFUSED.holds(Counter())


def test_manifests_are_read_in_order(tmp_path: Path) -> None:
    """A directory's files come in order of name, with all their documents and no empty ones."""
    (tmp_path / "b.yaml").write_text("kind: B\n---\n---\nkind: C\n")
    (tmp_path / "a.yaml").write_text("kind: A\n")
    (tmp_path / "readme.txt").write_text("nothing")
    assert [manifest["kind"] for manifest in read_manifests([tmp_path])] == ["A", "B", "C"]


@pytest.mark.parametrize("text", ["- a list\n", "a: [\n"])
def test_manifests_that_are_none_are_named(tmp_path: Path, text: str) -> None:
    """A file that holds no object is refused with its name, in one sentence."""
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(SandboxError, match="wrong.yaml: ") as caught:
        read_manifests([file])
    assert "\n" not in str(caught.value)


def test_examples_say_what_they_show() -> None:
    """Every example manifest begins with a comment."""
    examples = Path(__file__).parents[3] / "manifests" / "sandbox"
    files = sorted(examples.glob("*.yaml"))
    assert len(files) >= 6
    assert [file.name for file in files if not file.read_text().startswith("# ")] == []


def test_inventory_has_every_node_and_pod() -> None:
    """Each Node tells its addresses and ranges; each Pod is ready and tells both its addresses."""
    layout = Layout("x", 1, "routed")
    objects = {(x["kind"], x["metadata"]["name"]): x for x in manifests(layout)}
    assert len(objects) == 2 + len(layout.pods)
    assert objects["Node", "node1"]["spec"]["podCIDRs"] == list(layout.nodes[0].pod_cidrs)
    web = objects["Pod", "web-2"]
    assert web["status"]["podIPs"] == [{"ip": a} for a in layout.addresses("web-2")]
    assert web["spec"]["containers"][0]["ports"][0]["containerPort"] == BACKEND_PORT


def test_another_proxy_gets_the_same_flags() -> None:
    """A replaced proxy command is split as a shell would, and gets the usual flags."""
    argv = programs.proxy("node1", Path("/k"), "strace -o '/tmp/a b' kube-proxy")
    assert argv[:4] == ["strace", "-o", "/tmp/a b", "kube-proxy"]
    assert argv[4:] == ["--kubeconfig=/k", "--hostname-override=node1"]


def test_services_are_shown_with_all_their_addresses() -> None:
    """A Service's row holds its type, all VIPs and its ports with node ports."""
    spec = {
        "type": "LoadBalancer",
        "clusterIPs": ["10.96.0.1", "fd00::1"],
        "externalIPs": ["203.0.113.1"],
        "ports": [{"port": 80, "nodePort": 30000}, {"port": 53, "protocol": "UDP"}],
    }
    status = {"loadBalancer": {"ingress": [{"ip": "203.0.113.2"}]}}
    lines = table(service_rows([{"metadata": {"name": "a"}, "spec": spec, "status": status}]))
    assert lines[0].startswith("SERVICE  TYPE          CLUSTER IPS")
    assert lines[1].split() == (
        "a LoadBalancer 10.96.0.1 fd00::1 203.0.113.1 203.0.113.2 80:30000/TCP 53/UDP".split()
    )
