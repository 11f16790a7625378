# SPDX-License-Identifier: Apache-2.0
"""Proxies as pods of a node: manifests in, containers that run, and what can be asked of them."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import yaml

from kubeproxy_bpf.sandbox import namespace
from kubeproxy_bpf.sandbox.probe import Target, ask
from tests.e2e.packaging.cluster import WEB_VIP, Cluster
from tests.e2e.packaging.container import Container, Rootfs, Running
from tests.e2e.packaging.kubelet import Kubelet, Manifest

MANIFESTS = Path(__file__).parents[3] / "manifests"
KUBEADM = Path(__file__).with_name("kubeadm")
HEALTH_PORT, METRICS_PORT = 10256, 10249

# Who answers a connected UDP socket, and how a receive ends that nobody will answer.
_CONNECTED = """
import errno, socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    udp.connect((sys.argv[1], 80))
    udp.send(b"name\\n")
    print(udp.recv(100).decode(), flush=True)
    udp.settimeout(30)
    try:
        print(udp.recv(100), flush=True)
    except OSError as error:
        print(errno.errorcode.get(error.errno, "timeout"), flush=True)
"""


def kustomized(directory: Path) -> list[Manifest]:
    """What `kubectl apply -k` would send."""
    done = subprocess.run(
        ["kubectl", "kustomize", directory], capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(objects: Sequence[Manifest], kind: str) -> Manifest:
    (found,) = [item for item in objects if item["kind"] == kind]
    return found


def kubeadm_objects(cluster: Cluster) -> list[Manifest]:
    """ConfigMap and DaemonSet as `kubeadm init` leaves them."""
    pods = cluster.sandbox.layout.pod_network
    data = {
        "config.conf": (KUBEADM / "config.conf").read_text().replace("POD_SUBNET", ",".join(pods)),
        "kubeconfig.conf": _kubeconfig(KUBEADM / "kubeconfig.conf", cluster),
    }
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-proxy"}}
    return [config | {"data": data}, yaml.safe_load((KUBEADM / "daemonset.yaml").read_text())]


def installed_objects(cluster: Cluster, variant: str = "install") -> list[Manifest]:
    """Our own installation, with the three settings that docs/install.md asks for."""
    objects = kustomized(MANIFESTS / variant)
    data = of_kind(objects, "ConfigMap")["data"]
    server = "https://CONTROL_PLANE_ENDPOINT:6443"
    assert server in data["kubeconfig.conf"]
    data["kubeconfig.conf"] = data["kubeconfig.conf"].replace(server, cluster.endpoint)
    cidrs = ",".join(cluster.sandbox.layout.pod_network)
    assert 'clusterCIDR: ""' in data["config.conf"]
    data["config.conf"] = data["config.conf"].replace('clusterCIDR: ""', f'clusterCIDR: "{cidrs}"')
    return objects


def _kubeconfig(path: Path, cluster: Cluster) -> str:
    return path.read_text().replace("CONTROL_PLANE_ENDPOINT", cluster.endpoint)


class NodePods:
    """Containers of one node; ``close`` ends all that were started."""

    def __init__(self, cluster: Cluster, node: str, rootfs: Rootfs) -> None:
        self.cluster = cluster
        self.node = node
        self.directory = cluster.node(node)
        self._rootfs = rootfs
        self._stack = ExitStack()
        self._logs = 0

    def close(self) -> None:
        self._stack.close()

    def containers(self, objects: list[Manifest]) -> tuple[list[Container], list[Container]]:
        kubelet = Kubelet(self.directory, objects, self.cluster.account)
        return kubelet.containers(of_kind(objects, "DaemonSet"))

    def start(self, container: Container) -> Running:
        self._logs += 1
        log = self.directory.path / f"{id(self):x}-{self._logs}.log"
        running = Running(self.directory, container, self._rootfs, log)
        self._stack.callback(running.close)
        return running

    def run_to_end(self, container: Container) -> tuple[int, str]:
        """Exit status and output."""
        running = self.start(container)
        return running.wait(), running.log.read_text()

    def get(self, path: str, port: int = HEALTH_PORT) -> tuple[int, str]:
        """An HTTP request from the node itself; status 0 if nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.sock = namespace.call(
                self.cluster.sandbox.layout.netns(self.node),
                partial(socket.create_connection, ("127.0.0.1", port), 5),
            )
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def healthy(self) -> bool:
        return self.get("/healthz")[0] == 200

    def asked(self, place: str, address: str = WEB_VIP, protocol: Any = "TCP") -> str:
        """Who answers a client in a place; the name of a pod, or of a failure."""
        return self.cluster.sandbox.run_in(place, partial(ask, Target(protocol, address, 80)))


@contextmanager
def connected_udp(cluster: Cluster, place: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """A UDP socket that stays connected to the Service: to which pod, and how its wait ends."""
    argv = [sys.executable, "-I", "-S", "-c", _CONNECTED, WEB_VIP]
    with subprocess.Popen(
        cluster.sandbox.place(place).launch(argv), stdout=subprocess.PIPE, text=True
    ) as client:
        output = client.stdout
        assert output
        try:
            backend = output.readline().strip()
            assert backend.startswith("web-")
            yield backend, lambda: output.readline().strip()
        finally:
            client.kill()


@contextmanager
def node_pods(cluster: Cluster, node: str, rootfs: Rootfs) -> Iterator[NodePods]:
    pods = NodePods(cluster, node, rootfs)
    try:
        yield pods
    finally:
        pods.close()
