# SPDX-License-Identifier: Apache-2.0
"""One sandbox for all faults of the API server."""

from __future__ import annotations

from typing import Iterator

import pytest

from tests.fault.cluster_api.world import ClusterStage, Identity, secured
from tests.fault.load.world import World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Identity]]:
    with secured(tmp_path_factory.mktemp("identity")) as made:
        yield made


@pytest.fixture
def stage(world: tuple[World, Identity], request: pytest.FixtureRequest) -> Iterator[ClusterStage]:
    sandbox, identity = world
    stage = ClusterStage(sandbox, identity, request.node.nodeid.removeprefix("tests/fault/"))
    stage.furnish()
    stage.restore()
    try:
        yield stage
    finally:
        stage.persist(stage.clear_faults)
        stage.scale(4)
