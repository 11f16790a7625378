# SPDX-License-Identifier: Apache-2.0
"""A stage that knows the node's kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from tests.fault.kernel.foreign import Foreign, compile_foreign
from tests.fault.kernel.node import KernelStage
from tests.fault.load.stage import staged
from tests.fault.load.world import World


@pytest.fixture
def stage(sandbox: World, scenario: str, request: pytest.FixtureRequest) -> Iterator[KernelStage]:
    """As for all faults, with the kernel of node1.

    A restart of the proxy takes seconds: a module whose scenarios all begin with one sets
    ``KEEPS_FLAGS``.
    """
    made = KernelStage(sandbox, scenario)
    made.keeps_proxy = getattr(request.module, "KEEPS_FLAGS", False)
    with staged(made):
        yield made


@pytest.fixture(scope="session")
def foreign_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_foreign(tmp_path_factory.mktemp("foreign") / "foreign.bpf.o")


@pytest.fixture
def foreign(stage: KernelStage, foreign_image: Path) -> Iterator[Foreign]:
    """Another project, which leaves when the test ends."""
    with Foreign(stage.sandbox, foreign_image) as made:
        yield made
