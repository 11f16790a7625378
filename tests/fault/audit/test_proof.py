# SPDX-License-Identifier: Apache-2.0
"""Hooks that do not run are known within seconds, and /healthz says so.

Those that run, but not for pods: ``tests/fault/kernel/test_started_otherwise.py``.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import pytest

from kubeproxy_bpf.libbpf import AttachType, Link, prog_attach, prog_detach
from tests.fault.audit.conftest import links_of, logged
from tests.fault.audit.foreign_program import foreign_program
from tests.fault.load.stage import ALL, Stage

pytestmark = pytest.mark.root

CONNECT = AttachType.CGROUP_INET4_CONNECT


def get(stage: Stage, path: str, port: int = 10256) -> tuple[int, Any]:
    """Ask the proxy of node1."""

    def ask() -> tuple[int, str]:
        from http.client import HTTPConnection

        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    status, body = stage.sandbox.run_in("node1", ask)
    return status, json.loads(body) if body.startswith("{") else body


def metric(stage: Stage, name: str) -> float:
    _, body = get(stage, "/metrics", 10249)
    (value,) = (line.split()[-1] for line in body.splitlines() if line.startswith(f"{name} "))
    return float(value)


def cgroup_of(stage: Stage) -> Path:
    return stage.sandbox._root / stage.sandbox.layout.node_cgroup("node1")


def test_hooks_that_another_program_shuts_out_are_dead(stage: Stage) -> None:
    """Refused attachments are told once; 503 and the reason until the way is free again."""
    assert get(stage, "/healthz")[0] == 200
    since = len(stage.log())
    with alone_at_connect(stage):
        stage.until(lambda: get(stage, "/healthz")[0] == 503)
        status, body = get(stage, "/healthz")
        assert "do not run for its sockets" in body["hooksFault"] and not body["healthy"]
        assert get(stage, "/livez")[0] == 200
        assert metric(stage, "kubeproxy_bpf_hooks_proved") == 0
        looks = metric(stage, "kubeproxy_bpf_audit_runs_total")
        stage.until(lambda: metric(stage, "kubeproxy_bpf_audit_runs_total") > looks + 2)
        assert len(logged(stage, since, "hook_refused")) == 1
        stage.until_answers(ALL, seconds=10)
    stage.until(lambda: get(stage, "/healthz")[0] == 200)
    assert logged(stage, since, "hooks_alive_again")
    assert metric(stage, "kubeproxy_bpf_hooks_proved") == 1


@contextmanager
def alone_at_connect(stage: Stage) -> Iterator[None]:
    """A foreign program that allows no others beside it, in place of ours."""
    cgroup_fd = os.open(cgroup_of(stage), os.O_RDONLY)
    try:
        with foreign_program() as program:
            with Link.open_pinned(links_of(stage) / "kpb_connect4") as link:
                link.detach()
            prog_attach(program.fd, cgroup_fd, CONNECT)
            try:
                yield
            finally:
                prog_detach(program.fd, cgroup_fd, CONNECT)
    finally:
        os.close(cgroup_fd)
