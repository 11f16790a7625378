# SPDX-License-Identifier: Apache-2.0
"""For all tests of programs in the kernel."""

from __future__ import annotations

import logging
from typing import Iterator

import pytest
import structlog


@pytest.fixture(scope="module", autouse=True)
def without_debugging() -> Iterator[None]:
    """Of an object that is loaded libbpf tells thousands of things, and each costs its wording."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    yield
    structlog.reset_defaults()
