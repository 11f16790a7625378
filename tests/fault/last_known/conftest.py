# SPDX-License-Identifier: Apache-2.0
"""A node whose proxy reaches the API server through itself, and has left a snapshot."""

from __future__ import annotations

import os
from typing import Iterator

import pytest

from kubeproxy_bpf.sandbox.cluster import Options, Sandbox
from tests.fault.last_known.node import Node


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Nothing runs but the API server; the proxy is the test's."""
    options = Options(proxy=False, api_flags=("--admin",))
    with Sandbox.up(f"kpbt-l{os.getpid()}", "routed", options) as sandbox:
        made = Node(sandbox, tmp_path_factory.mktemp("last-known"))
        made.furnish()
        with made.runs(direct=True):
            pass
        # From here on the only way to the API server is the proxy itself.
        with made.runs():
            assert made.events("snapshot_refused"), "it was of another address of the API server"
        yield made
