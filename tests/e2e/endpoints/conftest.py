# SPDX-License-Identifier: Apache-2.0
"""One sandbox with real proxies for all tests of what they answer over HTTP."""

from __future__ import annotations

import os
from typing import Iterator

import pytest

from kubeproxy_bpf.sandbox.cluster import Options, Sandbox


@pytest.fixture(scope="package")
def sandbox() -> Iterator[Sandbox]:
    """Two nodes; tests leave it as they found it."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces and control groups")
    options = Options(api_flags=("--admin",), proxy_flags=("--profiling", "--v=2"))
    with Sandbox.up(f"kpbt-ep{os.getpid()}", "routed", options) as made:
        yield made
