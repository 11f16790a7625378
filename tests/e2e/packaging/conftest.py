# SPDX-License-Identifier: Apache-2.0
"""A cluster for tests that run the proxy as pods, and the root file system of their containers."""

from __future__ import annotations

import os
from typing import Iterator

import pytest

from tests.e2e.packaging.cluster import Cluster, cluster, machine_rootfs
from tests.e2e.packaging.container import Rootfs


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster without a proxy; a test that starts one leaves the node clean."""
    name = f"kpbt-c{os.getpid() % 100000}"
    with cluster(name, tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture(scope="session")
def rootfs() -> Rootfs:
    """This machine's programs; the image's own are for tests/image."""
    return machine_rootfs()
