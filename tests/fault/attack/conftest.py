# SPDX-License-Identifier: Apache-2.0
"""The proxy that is attacked: a small flow table, pages for profiling, a token to keep secret."""

from __future__ import annotations

from functools import partial
from typing import Iterator

import pytest

from kubeproxy_bpf.sandbox.probe import Target, ask
from tests.fault.load.stage import Stage, service, staged
from tests.fault.load.world import World

from .proxy_flags import FLAGS
from .secrets_planted import planted
from .wire import Attacker


@pytest.fixture(scope="session")
def flags(sandbox: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The kubeconfig has a secret in it."""
    secret = planted(sandbox.kubeconfig, tmp_path_factory.mktemp("secrets"))
    return (*FLAGS, f"--kubeconfig={secret}")


@pytest.fixture
def stage(sandbox: World, scenario: str, flags: tuple[str, ...]) -> Iterator[Stage]:
    with staged(Stage(sandbox, scenario, flags)) as made:
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
def attacker(sandbox: World) -> Attacker:
    return Attacker(sandbox)
