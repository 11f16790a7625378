# SPDX-License-Identifier: Apache-2.0
"""A sandbox for all attacks: a small flow table, pages for profiling, a token to be kept secret."""

from __future__ import annotations

import os
from functools import partial
from typing import Iterator

import pytest

from kubeproxy_bpf.sandbox.cluster import Sandbox
from kubeproxy_bpf.sandbox.probe import Target, ask
from tests.fault.load.stage import Stage, service, staged, standing

from .proxy_flags import FLAGS
from .secrets_planted import planted
from .wire import Attacker


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """The proxy of node1 has a kubeconfig with a secret in it."""
    with standing(f"kpbt-k{os.getpid()}", FLAGS) as made:
        secret = planted(made.kubeconfig, tmp_path_factory.mktemp("secrets"))
        stage = Stage(made)
        stage.furnish()
        stage.kill_proxy()
        stage.start_and_await(*FLAGS, f"--kubeconfig={secret}")
        yield made


@pytest.fixture
def stage(sandbox: Sandbox, request: pytest.FixtureRequest) -> Iterator[Stage]:
    with staged(sandbox, request.node.nodeid.removeprefix("tests/fault/")) as made:
        yield made


@pytest.fixture
def node_ports(stage: Stage) -> tuple[int, int]:
    """Of TCP and UDP, in both families."""
    made = stage.put(service("attacked", type="NodePort", ipFamilyPolicy="RequireDualStack"))
    first, second = (port["nodePort"] for port in made["spec"]["ports"])
    address = stage.sandbox.layout.addresses("node1").v6
    target = Target("TCP", address, first)
    stage.until(lambda: stage.sandbox.run_in("client", partial(ask, target)))
    return first, second


@pytest.fixture
def attacker(sandbox: Sandbox) -> Attacker:
    return Attacker(sandbox)
