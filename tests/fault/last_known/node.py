# SPDX-License-Identifier: Apache-2.0
"""node1 of a sandbox whose API server stands behind a Service of its own cluster."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Sequence

import yaml

from kubeproxy_bpf.api.decode import ApiObject, Kind
from kubeproxy_bpf.api.objects import ServicePort, SlicePort
from kubeproxy_bpf.api.snapshot import Identity, encode
from kubeproxy_bpf.api.snapshot_file import SnapshotFile
from kubeproxy_bpf.sandbox import inventory, namespace, programs
from kubeproxy_bpf.sandbox.layout import API_PORT
from tests.fault.load.stage import Manifest, Stage, service
from tests.fault.load.world import World
from tests.fix_objects import endpoint_slice
from tests.fix_objects import service as service_object
from tests.fix_objects import traits

API_VIP = "10.96.0.1"
BEHIND_A_SERVICE = f"http://{API_VIP}:443"


class Node(Stage):
    """node1, which can be rebooted, and the API server, which can come back as another."""

    def __init__(self, sandbox: World, directory: Path) -> None:
        super().__init__(sandbox)
        self.snapshot = directory / "kept" / "snapshot"
        self._kubeconfig = directory / "behind-a-service"
        config = inventory.kubeconfig(sandbox.layout)
        config["clusters"][0]["cluster"]["server"] = BEHIND_A_SERVICE
        self._kubeconfig.write_text(yaml.safe_dump(config))

    def furnish(self) -> None:
        """All that the cluster of this node has before the reboot."""
        super().furnish()
        for manifest in api_server_service(self.sandbox.layout.gateway.v4):
            self.put(manifest)
        self.put(service("gone", clusterIP="10.96.0.77"))

    def bootstrap(self) -> None:
        """A snapshot of nothing but the way to the API server: the proxy can only go through
        itself."""
        vip, address = (API_VIP,), self.sandbox.layout.gateway.v4
        ports = (ServicePort("https", "TCP", 443, 0),)
        kubernetes = {"name": "kubernetes", "service": "kubernetes"}
        behind = (SlicePort("https", "TCP", API_PORT),)
        found: dict[Kind, tuple[ApiObject, ...]] = {
            Kind.SERVICE: (service_object(name="kubernetes", cluster_ips=vip, ports=ports),),
            Kind.ENDPOINT_SLICE: (endpoint_slice({address: traits()}, ports=behind, **kubernetes),),
        }
        file = SnapshotFile(self.snapshot)
        file.prepare()
        file.write(encode(Identity("node1", BEHIND_A_SERVICE), 0.0, found))

    def start(self) -> None:
        """Start the proxy, which knows the API server by the VIP alone, and return at once."""
        flags = (f"--kubeconfig={self._kubeconfig}", f"--bpf-snapshot-path={self.snapshot}")
        self.sandbox.start_proxy("node1", flags=flags)

    def start_and_sync(self) -> None:
        """Start it, and wait until it has done its first sync with the API server."""
        self.start()
        self.until(lambda: 200 == self.health("/healthz"))

    def stop(self, number: int = signal.SIGTERM) -> None:
        process = self.proxy_process()
        process.send_signal(number)
        process.wait(timeout=30)

    def reboot(self) -> None:
        """What a reboot does to a node whose proxy does not run: only files are left."""
        shutil.rmtree(self.sandbox.pin_path("node1"))
        group = self.sandbox._root / self.sandbox.layout.node_cgroup("node1")
        argv = ["bpftool", "cgroup", "tree", str(group)]

        def is_left() -> bool:
            return "kpb_" in subprocess.run(argv, capture_output=True, text=True).stdout

        self.until(lambda: not is_left())

    def end_api_server(self) -> None:
        process = self.sandbox._started["apiserver-net"]
        process.kill()
        process.wait()

    def start_api_server(self, manifests: Sequence[Manifest]) -> None:
        """Start one that knows the nodes, these objects, and nothing else."""
        layout = self.sandbox.layout
        self.sandbox._spawn("apiserver", "net", [*programs.api_server(layout), "--admin"])
        self.until(self.sandbox.api.is_ready)
        for manifest in (*map(inventory.node_manifest, layout.nodes), *manifests):
            self.put(manifest)

    def web(self) -> Manifest:
        """The Service of the scenarios, with the addresses that it has."""
        ports = service("web")["spec"]["ports"]
        for port, number in zip(ports, self.node_ports):
            port["nodePort"] = number
        return service("web", type="NodePort", clusterIP=self.vip, ports=ports)

    def changed_world(self) -> list[Manifest]:
        """Two of the four pods, and a Service less."""
        api = api_server_service(self.sandbox.layout.gateway.v4)
        return [*api, *self.pods("web-1", "web-2"), self.web()]

    def pods(self, *names: str) -> list[Manifest]:
        """Manifests of pods."""
        layout = self.sandbox.layout
        nodes = {node.name: node for node in layout.nodes}
        chosen = [pod for pod in layout.pods if pod.name in names]
        return [inventory.pod_manifest(pod, nodes[pod.node]) for pod in chosen]

    def page(self, port: int, path: str) -> tuple[int, str]:
        """What the proxy answers on one of its own ports."""
        netns = self.sandbox.layout.netns("node1")
        with namespace.call(
            netns, lambda: socket.create_connection(("127.0.0.1", port), 5)
        ) as sock:
            sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            with sock.makefile("rb") as answer:
                text = answer.read().decode()
        return int(text.split()[1]), text

    def health(self, path: str) -> int:
        """Status of a page of health, 0 before there is a server."""
        try:
            return self.page(10256, path)[0]
        except OSError:
            return 0

    def metric(self, name: str) -> dict[str, float]:
        """The series of a metric, by their labels."""
        lines = self.page(10249, "/metrics")[1].splitlines()
        found = (line.rpartition(" ") for line in lines if line.startswith(name))
        return {key.removeprefix(name): float(value) for key, _, value in found}

    def events(self, name: str) -> list[str]:
        """Lines of the proxy's log about an event."""
        return [line for line in self.log().splitlines() if name in line]


def api_server_service(address: str, port: int = API_PORT) -> list[Manifest]:
    """default/kubernetes, as an API server keeps it."""
    metadata = {"name": "kubernetes", "namespace": "default"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"clusterIP": API_VIP, "ports": [{"name": "https", "port": 443}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**metadata, "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4",
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        },
    ]
