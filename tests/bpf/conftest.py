# SPDX-License-Identifier: Apache-2.0
"""For all tests of programs in the kernel."""

from __future__ import annotations

import logging
from typing import Iterator

import pytest
import structlog

from kubeproxy_bpf.libbpf import log


@pytest.fixture(scope="module", autouse=True)
def quiet_libbpf() -> Iterator[None]:
    """Of an object that is loaded libbpf tells thousands of things, and each costs its wording."""
    with pytest.MonkeyPatch.context() as patch:
        quiet = structlog.make_filtering_bound_logger(logging.INFO)
        patch.setattr(log, "_logger", structlog.wrap_logger(None, wrapper_class=quiet))
        yield
