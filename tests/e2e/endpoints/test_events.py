# SPDX-License-Identifier: Apache-2.0
"""Events that users see with kubectl, from the running process through the API server."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from kubeproxy_bpf.sandbox import namespace, programs
from kubeproxy_bpf.sandbox.cluster import Options, Sandbox
from tests.e2e.endpoints.asking import REFUSED, ask, until
from tests.e2e.endpoints.test_health_check_ports import PORT, balanced

pytestmark = pytest.mark.root

NODE = "node1"


def events(sandbox: Sandbox, reason: str) -> list[dict[str, Any]]:
    listed = sandbox.api.request("GET", "/apis/events.k8s.io/v1/events")
    found: list[dict[str, Any]] = listed["items"]
    return [event for event in found if event["reason"] == reason]


def test_each_start_is_told(sandbox: Sandbox) -> None:
    """A Normal event on the Node, in the shape that kube-proxy's have."""
    told = {event["regarding"]["name"]: event for event in events(sandbox, "Starting")}
    assert set(sandbox.layout.node_names) <= set(told)
    event = told[NODE]
    assert ("Normal", "StartKubeProxy") == (event["type"], event["action"])
    assert ("kube-proxy", f"kube-proxy-{NODE}") == (
        event["reportingController"],
        event["reportingInstance"],
    )
    assert "Node" == event["regarding"]["kind"] and "uid" not in event["regarding"]
    assert "default" == event["metadata"]["namespace"]


def test_a_taken_health_check_port_is_told_and_tried_again(sandbox: Sandbox) -> None:
    """A Warning on the Service that names the node; served as soon as the port is free."""
    node = sandbox.layout.nodes[0]
    blocker = namespace.call(
        sandbox.layout.netns(NODE), lambda: socket.create_server(("0.0.0.0", PORT))
    )
    manifest = balanced()
    try:
        made = sandbox.api.apply(manifest)
        reason = "FailedToStartServiceHealthcheck"
        (event,) = until(lambda: events(sandbox, reason), bool)
        assert ("Warning", "Listen") == (event["type"], event["action"])
        assert made["metadata"]["uid"] == event["regarding"]["uid"]
        start = f'node {NODE} failed to start healthcheck "default/balanced" on port {PORT}: '
        assert event["note"].startswith(start)
        # The other family does not suffer.
        until(lambda: ask(sandbox, "client", node.addresses.v6, PORT), lambda a: a.status == 200)
        blocker.close()
        # Any sync will do.
        sandbox.api.apply({**manifest, "spec": {"sessionAffinity": "ClientIP"}})
        until(lambda: ask(sandbox, "client", node.addresses.v4, PORT), lambda a: a.status == 200)
    finally:
        blocker.close()
        sandbox.api.delete(manifest)
    until(lambda: ask(sandbox, "client", node.addresses.v4, PORT), lambda seen: seen == REFUSED)


def test_a_server_that_refuses_events_disturbs_nothing(sandbox: Sandbox) -> None:
    """Without the right to make events it is named once in the log, and all is served."""
    node = sandbox.layout.nodes[0]
    log = sandbox.directory / "log" / f"kube-proxy-{NODE}.log"
    fault = {"kind": "status", "resource": "events", "times": None, "code": 403}
    sandbox.api.request("POST", "/sandbox/faults", fault)
    manifest = balanced()
    try:
        with namespace.call(
            sandbox.layout.netns(NODE), lambda: socket.create_server(("0.0.0.0", PORT))
        ):
            sandbox.api.apply(manifest)
            until(log.read_text, lambda text: "events_refused" in text)
            host = node.addresses.v6
            until(lambda: ask(sandbox, "client", host, PORT), lambda a: a.status == 200)
        assert 200 == ask(sandbox, "client", host, 10256, "/healthz").status
        assert 1 == log.read_text().count("events_refused")
    finally:
        sandbox.api.request("DELETE", "/sandbox/faults")
        sandbox.api.delete(manifest)
    until(lambda: ask(sandbox, "client", node.addresses.v6, PORT), lambda seen: seen == REFUSED)


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("--healthz-bind-address=0.0.0.0:10256", "FailedToStartProxierHealthcheck"),
        ("--metrics-bind-address=127.0.0.1:10249", "FailedToStartMetricServer"),
    ],
)
def test_a_port_that_must_be_had_ends_the_process(sandbox: Sandbox, flag: str, reason: str) -> None:
    """With --bind-address-hard-fail: exit code 1, a logged reason, and a Warning on the Node."""
    free = ["--healthz-bind-address=127.0.0.1:29991", "--metrics-bind-address=127.0.0.1:29992"]
    argv = [*programs.proxy(NODE, sandbox.kubeconfig, ""), "--bind-address-hard-fail"]
    # Where the sandbox clears away what the process may leave.
    argv += [f"--bpf-pin-path={sandbox.pin_path('second')}", *free, flag]
    done = sandbox.exec(NODE, argv)
    assert 1 == done.returncode, done.stderr
    assert "proxy_failed" in done.stderr and "Traceback" not in done.stderr
    (event,) = events(sandbox, reason)
    assert ("Warning", "StartKubeProxy") == (event["type"], event["action"])
    assert NODE == event["regarding"]["name"]
    assert flag.partition("=")[2] in event["note"]


def test_a_full_map_is_seen_by_the_owner_of_the_service() -> None:
    """Log, metric and event name it; Services that fit are not concerned."""
    options = Options(proxy_flags=("--bpf-max-slots=8",))
    with Sandbox.up(f"kpbt-full{os.getpid()}", "routed", options) as small:
        ports = [{"name": f"p{n}", "port": 80 + n, "targetPort": 8080} for n in range(16)]
        made = small.api.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "large", "namespace": "default"},
                "spec": {"selector": {"app": "web"}, "ports": ports},
            }
        )
        told = until(lambda: events(small, "MapFull"), bool)
        for event in told:
            assert ("Warning", "ProgramService") == (event["type"], event["action"])
            assert made["metadata"]["uid"] == event["regarding"]["uid"]
            assert "the BPF map slots is full" in event["note"]
        until(
            lambda: ask(small, NODE, "127.0.0.1", 10249, "/metrics").body,
            lambda body: 'kubeproxy_bpf_service_ports_unfit{map="slots"}' in body,
        )
        assert "service_port_unfit" in (small.directory / f"log/kube-proxy-{NODE}.log").read_text()
