# SPDX-License-Identifier: Apache-2.0
"""A node whose proxy reaches the API server through itself, and has left a snapshot."""

from __future__ import annotations

import os
from typing import Iterator

import pytest

from kubeproxy_bpf.sandbox.cluster import Options
from tests.fault.last_known.node import Node
from tests.fault.load.world import World


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """The proxy, which found the API server by its snapshot, has ended and left another one."""
    options = Options(proxy=False, api_flags=("--admin",))
    with World.up(f"kpbt-l{os.getpid()}", "routed", options) as sandbox:
        assert isinstance(sandbox, World)
        made = Node(sandbox, tmp_path_factory.mktemp("last-known"))
        made.furnish()
        made.bootstrap()
        made.start_and_sync()
        made.stop()
        yield made
