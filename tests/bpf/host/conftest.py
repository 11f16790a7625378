# SPDX-License-Identifier: Apache-2.0
"""One node of namespaces for each test."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Iterator

import pytest

from tests.bpf.host.scene import Scene


@pytest.fixture
def scene() -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(stack)
