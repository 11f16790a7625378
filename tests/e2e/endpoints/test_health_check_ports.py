# SPDX-License-Identifier: Apache-2.0
"""healthCheckNodePort of a Service, asked from elsewhere while its pods and the node change."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, Iterator

import pytest

from kubeproxy_bpf.sandbox.cluster import Sandbox
from tests.e2e.endpoints.asking import REFUSED, Answer, ask, until

pytestmark = pytest.mark.root

PORT = 32111
OTHER_PORT = 32112
APP = "web"


def balanced(port: int = PORT, **spec: Any) -> dict[str, Any]:
    """A dual-stack load-balancer Service whose traffic stays on the node that it comes to."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "balanced", "namespace": "default"},
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "ipFamilyPolicy": "RequireDualStack",
            "healthCheckNodePort": port,
            "selector": {"app": APP},
            # Two ports of one pod are one endpoint.
            "ports": [
                {"name": "a", "port": 80, "targetPort": 8080},
                {"name": "b", "port": 81, "targetPort": 8080},
            ],
            **spec,
        },
    }


@pytest.fixture
def service(sandbox: Sandbox) -> Iterator[dict[str, Any]]:
    manifest = balanced()
    sandbox.api.apply(manifest)
    yield manifest
    sandbox.api.delete(manifest)
    for node in sandbox.layout.nodes:
        until(lambda: ask(sandbox, "client", node.addresses.v4, PORT), lambda seen: seen == REFUSED)


def expected(count: int, healthy: bool = True) -> str:
    return (
        '{\n\t"service": {\n\t\t"namespace": "default",\n\t\t"name": "balanced"\n\t},\n'
        f'\t"localEndpoints": {count},\n\t"serviceProxyHealthy": {json.dumps(healthy)}\n}}'
    )


def check(answer: Answer, status: int, count: int) -> None:
    assert (status, expected(count)) == (answer.status, answer.body)
    assert str(count) == answer.headers["X-Load-Balancing-Endpoint-Weight"]
    assert "application/json" == answer.headers["Content-Type"]
    assert "nosniff" == answer.headers["X-Content-Type-Options"]


def local_pods(sandbox: Sandbox, node: str) -> int:
    return sum(pod.app == APP and pod.node == node for pod in sandbox.layout.pods)


def test_each_node_answers_with_its_own_endpoints(sandbox: Sandbox, service: Any) -> None:
    """From outside, from the other node and over both families, for any path and method."""
    for node in sandbox.layout.nodes:
        count = local_pods(sandbox, node.name)
        other = next(n.name for n in sandbox.layout.nodes if n != node)
        for place in ("client", other, node.name):
            for host in node.addresses:
                answer = until(
                    lambda: ask(sandbox, place, host, PORT, "/healthz"), lambda a: a.status == 200
                )
                check(answer, 200, count)
    host = sandbox.layout.nodes[0].addresses.v4
    assert 200 == ask(sandbox, "client", host, PORT, "/any/path?x", "POST").status


def test_a_node_whose_endpoints_went_says_so(sandbox: Sandbox, service: Any) -> None:
    """503 with the weight 0 while no endpoint is local, 200 again when one is."""
    pods = sum(pod.app == APP for pod in sandbox.layout.pods)
    node = sandbox.layout.nodes[0]
    count = local_pods(sandbox, node.name)
    look = lambda: ask(sandbox, "client", node.addresses.v6, PORT)  # noqa: E731
    until(look, lambda answer: answer.status == 200)
    try:
        sandbox.scale(APP, 0)
        check(until(look, lambda answer: answer.status == 503), 503, 0)
    finally:
        sandbox.scale(APP, pods)
    check(until(look, lambda answer: answer.body == expected(count)), 200, count)


def test_traffic_follows_endpoints_to_their_node(sandbox: Sandbox, service: Any) -> None:
    """When all pods but one are gone, load balancers are sent to its node alone."""
    pods = [pod for pod in sandbox.layout.pods if pod.app == APP]
    here, there = (n.addresses.v4 for n in sandbox.layout.nodes)
    assert pods[0].node == sandbox.layout.nodes[0].name
    try:
        sandbox.scale(APP, 1)
        check(until(partial(ask, sandbox, "client", there, PORT), none), 503, 0)
        check(until(partial(ask, sandbox, "client", here, PORT), one), 200, 1)
    finally:
        sandbox.scale(APP, len(pods))
    until(partial(ask, sandbox, "client", there, PORT), lambda answer: answer.status == 200)


def none(answer: Answer) -> bool:
    return answer.body == expected(0)


def one(answer: Answer) -> bool:
    return answer.body == expected(1)


def test_a_node_that_goes_away_still_answers(sandbox: Sandbox, service: Any) -> None:
    """Eligibility of the node decides /healthz, not the health check of a Service."""
    node = sandbox.layout.nodes[0]
    host = node.addresses.v4
    until(lambda: ask(sandbox, "client", host, PORT), lambda answer: answer.status == 200)
    path = f"/api/v1/nodes/{node.name}"
    taint = {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}
    merge = "application/merge-patch+json"
    sandbox.api.request("PATCH", path, {"spec": {"taints": [taint]}}, merge)
    try:
        answer = until(
            lambda: ask(sandbox, "client", host, 10256, "/healthz"), lambda a: a.status == 503
        )
        assert answer.json["healthy"] is True and answer.json["nodeEligible"] is False
        assert 200 == ask(sandbox, "client", host, 10256, "/livez").status
        assert 200 == ask(sandbox, "client", host, PORT).status
    finally:
        sandbox.api.request("PATCH", path, {"spec": {"taints": None}}, merge)
    until(lambda: ask(sandbox, "client", host, 10256, "/healthz"), lambda a: a.status == 200)


def test_a_port_follows_its_service(sandbox: Sandbox, service: Any) -> None:
    """Another port opens where the old one closes; with the policy Cluster there is none."""
    host = sandbox.layout.nodes[0].addresses.v4
    until(lambda: ask(sandbox, "client", host, PORT), lambda answer: answer.status == 200)
    sandbox.api.delete(service)
    sandbox.api.apply(balanced(OTHER_PORT))
    until(lambda: ask(sandbox, "client", host, OTHER_PORT), lambda answer: answer.status == 200)
    assert REFUSED == ask(sandbox, "client", host, PORT)
    sandbox.api.apply(balanced(0, externalTrafficPolicy="Cluster"))
    until(lambda: ask(sandbox, "client", host, OTHER_PORT), lambda answer: answer == REFUSED)
