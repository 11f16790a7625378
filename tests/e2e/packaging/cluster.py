# SPDX-License-Identifier: Apache-2.0
"""A sandbox whose control plane is reached as kubeadm's is: TLS, and a token that is a file.

No proxy runs in it: the tests start theirs as pods. Requests to the API server go through kubectl,
from the network of the control plane.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Iterator

import trustme
import yaml

from kubeproxy_bpf.sandbox import inventory, namespace
from kubeproxy_bpf.sandbox.cluster import Options, Sandbox
from kubeproxy_bpf.sandbox.layout import API_PORT, SERVICE_CIDRS
from kubeproxy_bpf.sandbox.process import spawn
from kubeproxy_bpf.sandbox.programs import api_server
from tests.e2e.packaging.container import NodeDirectory, Rootfs

ROOT = Path(__file__).parents[3]
TOKEN = "kpbt-token"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
WEB_VIP = "10.96.0.80"


class Cluster:
    """A sandbox, its API server, and what a pod's service account consists of."""

    def __init__(self, sandbox: Sandbox, directory: Path) -> None:
        self.sandbox = sandbox
        self.account = directory / "account"
        self.account.mkdir()
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(self.account / "ca.crt"))
        (self.account / "token").write_text(f"{TOKEN}\n")
        self._directory = directory
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """The control plane, as kubeadm writes it into kubeconfig.conf."""
        return f"https://{self.sandbox.layout.gateway.v4}:{API_PORT}"

    def start(self) -> None:
        """Run the API server with the Nodes, the Pods and one Service."""
        layout = self.sandbox.layout
        certificate = self._authority.issue_cert(layout.gateway.v4)
        pair = self._directory / "server.pem"
        certificate.private_key_and_cert_chain_pem.write_to_path(str(pair))
        objects = [*inventory.manifests(layout), _web_service()]
        (self._directory / "objects.yaml").write_text(yaml.safe_dump_all(objects))
        argv = [*api_server(layout), "--admin", f"--token={TOKEN}"]
        argv += [f"--tls-cert={pair}", f"--tls-key={pair}"]
        argv += [f"--manifest={self._directory / 'objects.yaml'}"]
        log = self._directory / "apiserver.log"
        self._server = spawn(self.sandbox.place("net"), argv, log)
        deadline = time.monotonic() + 30
        while not self._answers():
            assert self._server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)

    def close(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    def _answers(self) -> bool:
        address = (self.sandbox.layout.gateway.v4, API_PORT)
        try:
            with namespace.call(
                self.sandbox.layout.netns("net"), lambda: socket.create_connection(address, 1)
            ):
                return True
        except OSError:
            return False

    def fault(self, **fields: Any) -> None:
        """Ask the API server for a fault."""
        self._ask("POST", "/sandbox/faults", fields)

    def create_service(self, service: dict[str, Any]) -> None:
        """One more Service, in the namespace default."""
        self._ask("POST", "/api/v1/namespaces/default/services", service)

    def delete_pod(self, name: str) -> None:
        """Take a backend away: its endpoints go with it."""
        self._ask("DELETE", f"/api/v1/namespaces/default/pods/{name}", {})

    def _ask(self, method: str, path: str, content: dict[str, Any]) -> None:
        self.sandbox.run_in("net", partial(self._send, method, path, content))

    def _send(self, method: str, path: str, content: dict[str, Any]) -> None:
        request = urllib.request.Request(
            self.endpoint + path,
            json.dumps(content).encode(),
            {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
            method=method,
        )
        context = ssl.create_default_context(cafile=str(self.account / "ca.crt"))
        urllib.request.urlopen(request, context=context, timeout=10).close()

    def node(self, name: str) -> NodeDirectory:
        return NodeDirectory(self.sandbox, name)


def machine_rootfs() -> Rootfs:
    """The machine's own programs as a container's root, with the checkout's kube-proxy."""
    script = f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -B -m kubeproxy_bpf "$@"\n'
    return Rootfs(
        ["/"],
        [path for path in (str(ROOT), sys.base_prefix, sys.prefix) if not _is_in_root(path)],
        {"PATH": PATH},
        {"/usr/local/bin/kube-proxy": script},
    )


def _is_in_root(path: str) -> bool:
    """A layer ends where another file system is mounted, and a container has some of its own."""
    if Path(path).parts[1] in ("run", "tmp"):
        return False
    return os.stat(path).st_dev == os.stat("/").st_dev


@contextmanager
def cluster(name: str, directory: Path) -> Iterator[Cluster]:
    """A cluster that waits for its proxies."""
    with Sandbox.up(name, options=Options(api=False, proxy=False)) as sandbox:
        made = Cluster(sandbox, directory)
        try:
            made.start()
            yield made
        finally:
            made.close()


def _web_service() -> dict[str, Any]:
    ports = [
        {"name": kind.lower(), "port": 80, "targetPort": 8080, "protocol": kind}
        for kind in ("TCP", "UDP")
    ]
    assert SERVICE_CIDRS[0].startswith("10.96.")
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "clusterIP": WEB_VIP, "ports": ports},
    }
