# SPDX-License-Identifier: Apache-2.0
"""One sandbox for all faults of the kernel side, and a stage that knows the node's kernel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

import pytest

from kubeproxy_bpf.sandbox.cluster import Sandbox
from tests.fault.kernel.foreign import Foreign, compile_foreign
from tests.fault.kernel.node import KernelStage
from tests.fault.load.stage import standing


@pytest.fixture(scope="package")
def sandbox() -> Iterator[Sandbox]:
    with standing(f"kpbt-fk{os.getpid()}") as made:
        yield made


@pytest.fixture
def stage(sandbox: Sandbox, request: pytest.FixtureRequest) -> Iterator[KernelStage]:
    """As for all faults, with the kernel of node1.

    A restart of the proxy takes seconds: a module whose scenarios all begin with one sets
    ``KEEPS_FLAGS``.
    """
    made = KernelStage(sandbox, request.node.nodeid.removeprefix("tests/fault/"))
    made.keeps_flags = getattr(request.module, "KEEPS_FLAGS", False)
    made.furnish()
    made.restore()
    try:
        yield made
    finally:
        made.persist(made.clear_faults)
        made.persist(lambda: sandbox.scale("web", 4))


@pytest.fixture(scope="session")
def foreign_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_foreign(tmp_path_factory.mktemp("foreign") / "foreign.bpf.o")


@pytest.fixture
def foreign(stage: KernelStage, foreign_image: Path) -> Iterator[Foreign]:
    """Another project, which leaves when the test ends."""
    with Foreign(stage.sandbox, foreign_image) as made:
        yield made
