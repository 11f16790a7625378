# SPDX-License-Identifier: Apache-2.0
"""One sandbox for all faults of the process."""

from __future__ import annotations

import os
from typing import Iterator

import pytest

from kubeproxy_bpf.sandbox.cluster import Sandbox
from tests.fault.load.stage import standing


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    with standing(f"kpbt-fp{os.getpid()}") as made:
        yield made
