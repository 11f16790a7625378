# SPDX-License-Identifier: Apache-2.0
"""A cluster on whose first node proxies run with less than they are used to."""

from __future__ import annotations

import os
from typing import Iterator

import pytest

from tests.e2e.packaging.cluster import Cluster, cluster
from tests.e2e.packaging.pods import installed_objects, node_pods
from tests.e2e.privilege.lesser import NODE_PORT, LesserNode, root_filesystem


@pytest.fixture(scope="package")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster without a proxy, prepared by the init container of the manifest."""
    name = f"kpbt-l{os.getpid() % 100000}"
    with cluster(name, tmp_path_factory.mktemp("cluster")) as made:
        made.create_service(_node_port_service())
        with node_pods(made, "node1", root_filesystem()) as pods:
            (init,), _ = pods.containers(installed_objects(made))
            status, log = pods.run_to_end(init)
        assert 0 == status, log
        yield made


@pytest.fixture
def node(kube: Cluster) -> Iterator[LesserNode]:
    """The first node; whatever a test leaves there is removed."""
    with node_pods(kube, "node1", root_filesystem()) as pods:
        made = LesserNode(kube, pods)
        yield made
        made.clean_up()


def _node_port_service() -> dict[str, object]:
    ports = [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": NODE_PORT}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "outside", "namespace": "default"},
        "spec": {"type": "NodePort", "selector": {"app": "web"}, "ports": ports},
    }
