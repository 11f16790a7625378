# SPDX-License-Identifier: Apache-2.0
"""Health and metrics servers of the running process, as kubelets, operators and monitoring ask."""

from __future__ import annotations

import pytest

from kubeproxy_bpf.sandbox.cluster import Sandbox
from tests.e2e.endpoints.asking import REFUSED, Answer, ask, until

pytestmark = pytest.mark.root

NODE = "node1"
HEALTH, METRICS = 10256, 10249
STRUCTURED = "application/json;v=v1beta1;g=config.k8s.io;as="


def page(sandbox: Sandbox, path: str, method: str = "GET", **headers_and_body: str) -> Answer:
    return ask(sandbox, NODE, "127.0.0.1", METRICS, path, method, **headers_and_body)


def test_health_is_seen_from_everywhere(sandbox: Sandbox) -> None:
    """The addresses that load balancers and the conformance tests use, in both families."""
    node = sandbox.layout.nodes[0]
    for place, host in (("client", node.addresses.v4), ("client", node.addresses.v6)):
        assert 200 == ask(sandbox, place, host, HEALTH, "/healthz").status
    answer = ask(sandbox, NODE, "127.0.0.1", HEALTH, "/healthz")
    assert list(answer.json) == ["lastUpdated", "currentTime", "nodeEligible", "healthy", "status"]
    assert {"IPv4", "IPv6"} == set(answer.json["status"])
    assert "Server" not in answer.headers
    missing = ask(sandbox, NODE, "127.0.0.1", HEALTH, "/healthz/")
    assert (404, "404 page not found\n") == (missing.status, missing.body)


def test_metrics_are_not_seen_from_outside(sandbox: Sandbox) -> None:
    """The metrics server listens on loopback unless it is told otherwise."""
    host = sandbox.layout.nodes[0].addresses.v4
    assert REFUSED == ask(sandbox, "client", host, METRICS, "/metrics")
    assert "kubeproxy_proxy_healthz_total" in page(sandbox, "/metrics").body


def test_monitoring_finds_the_mode_and_the_configuration(sandbox: Sandbox) -> None:
    """Under the names of kube-proxy."""
    assert "iptables" == page(sandbox, "/proxyMode").body
    document = page(sandbox, "/configz").json["kubeproxy.config.k8s.io"]
    assert "KubeProxyConfiguration" == document["kind"]
    assert NODE == document["hostnameOverride"]
    assert f"hostname-override={NODE}\n" in page(sandbox, "/flagz").body


def test_programs_get_objects(sandbox: Sandbox) -> None:
    """Who names kind, group and version gets JSON."""
    flags = page(sandbox, "/flagz", accept=f"{STRUCTURED}Flagz").json["flags"]
    assert NODE == flags["hostname-override"]
    status = page(sandbox, "/statusz", accept=f"{STRUCTURED}Statusz").json
    assert "config.k8s.io/v1beta1" == status["apiVersion"]
    assert ["/configz", "/flagz", "/healthz", "/metrics", "/proxyMode"] == status["paths"]
    assert 406 == page(sandbox, "/statusz", accept="application/json").status


def test_no_page_shows_a_secret(sandbox: Sandbox) -> None:
    """The kubeconfig is named, its content is not."""
    kubeconfig = sandbox.kubeconfig.read_text()
    server = next(line for line in kubeconfig.splitlines() if "server:" in line).split()[-1]
    for path in ("/configz", "/flagz", "/statusz"):
        body = page(sandbox, path).body
        assert server not in body
        assert "-----BEGIN" not in body and "Bearer" not in body


def test_verbosity_is_set_while_it_runs(sandbox: Sandbox) -> None:
    """Debug events appear from then on, and stop when it is set back."""
    log = sandbox.directory / "log" / f"kube-proxy-{NODE}.log"
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "noticed", "namespace": "default"},
        "spec": {"ports": [{"port": 80}]},
    }
    assert "sync_finished" not in log.read_text().replace("first_sync_finished", "")
    answer = page(sandbox, "/debug/flags/v", "PUT", body="5")
    assert (200, "successfully set klog.logging.verbosity to 5\n") == (answer.status, answer.body)
    sandbox.api.apply(service)
    try:
        until(
            lambda: log.read_text().replace("first_sync_finished", ""),
            lambda text: "sync_finished" in text,
        )
    finally:
        sandbox.api.delete(service)
        assert 200 == page(sandbox, "/debug/flags/v", "PUT", body="2").status
