# SPDX-License-Identifier: Apache-2.0
"""A sandbox whose proxy reaches its API server as in a cluster: by TLS, an own authority, a token.

The other port, without either, belongs to the scenarios: there they change the cluster and ask
for faults, whatever the proxy sees. Only node1 runs a proxy, so that a fault which bites so many
times bites the one that the load depends on.
"""

from __future__ import annotations

import http.client
import os
import re
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import trustme
import yaml

from kubeproxy_bpf.sandbox import namespace
from kubeproxy_bpf.sandbox.cluster import Options
from tests.fault.load.stage import ALL, Stage
from tests.fault.load.world import World

SECURE_PORT = 7443
NAME = "kubernetes.example.org"
PORTS = (10249, 10256)
"""Of metrics and of health."""
BOOKMARK_S, BOOKMARKS = 1, 3


NEWS = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {"name": "news", "namespace": "default"},
    "addressType": "IPv4",
    "ports": [],
    "endpoints": [],
}
"""Of no Service. A watch that brings it ends the back-off that earlier faults have left."""


class Identity:
    """The server's certificate and authority, and the proxy's token, as files that can change."""

    def __init__(self, directory: Path) -> None:
        self.token_file = directory / "token"
        self.authority_file = directory / "ca.crt"
        self.certificate_files = (directory / "tls.crt", directory / "tls.key")
        self.authority = trustme.CA()
        self.tokens = ["token-q7z-0"]
        self.issue()
        self.give_token()
        self.give_authority(self.authority)

    @property
    def token(self) -> str:
        return self.tokens[-1]

    def new_token(self) -> str:
        """What the server will accept; the proxy does not have it before ``give_token``."""
        self.tokens.append(f"token-q7z-{len(self.tokens)}")
        return self.token

    def issue(self) -> None:
        """A certificate of the authority, for the server."""
        issued = self.authority.issue_cert(NAME)
        certificate, key = self.certificate_files
        certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))

    def give_token(self) -> None:
        _replace(self.token_file, self.token.encode())

    def give_authority(self, *authorities: trustme.CA) -> None:
        """Let the proxy trust these."""
        _replace(self.authority_file, b"".join(ca.cert_pem.bytes() for ca in authorities))

    def kubeconfig(self, address: str) -> str:
        cluster = {
            "server": f"https://{address}:{SECURE_PORT}",
            "tls-server-name": NAME,
            "certificate-authority": str(self.authority_file),
        }
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "secure", "cluster": cluster}],
            "users": [{"name": "proxy", "user": {"tokenFile": str(self.token_file)}}],
            "contexts": [{"name": "secure", "context": {"cluster": "secure", "user": "proxy"}}],
            "current-context": "secure",
        }
        return yaml.safe_dump(document)


def _replace(path: Path, content: bytes) -> None:
    """As the kubelet does it: never half a file."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.rename(path)


class ClusterStage(Stage):
    """A stage with one proxy, whose way to the API server can be disturbed."""

    def __init__(self, sandbox: World, identity: Identity, scenario: str) -> None:
        super().__init__(sandbox, scenario)
        self.identity = identity

    def restore(self) -> None:
        self.persist(self.clear_faults)
        if not self.sandbox.proxy_pids("node1"):
            self.sandbox.start_proxy("node1")
        self.scale(4)
        self.until_answers(ALL)
        self.put(NEWS)
        self.delete(NEWS)

    def scale(self, replicas: int, seconds: float = 60) -> None:
        """Let so many backends exist, as soon as the API server lets us say so."""
        self.persist(lambda: self.sandbox.scale("web", replicas), seconds)

    def until_said(self, pattern: str, since: int, times: int = 1, seconds: float = 60) -> None:
        """Wait until the log, from a position on, says this so often: the fault did bite."""
        self.until(lambda: self.has_said(pattern, since, times), seconds)

    def has_said(self, pattern: str, since: int, times: int = 1) -> bool:
        return len(re.findall(pattern, self.log()[since:])) >= times

    def until_paced(self) -> None:
        """Wait until bookmarks of EndpointSlices have shown their pace, by which silence shows.

        They come each second, other news at once.
        """
        seen = [self._heard()]

        def often() -> bool:
            now = self._heard()
            if now - seen[-1] > BOOKMARK_S / 2:
                seen.append(now)
            seen[-1] = now
            return len(seen) > BOOKMARKS

        self.until(often)

    def _heard(self) -> float:
        """When the API server said something about EndpointSlices."""
        name = 'kubeproxy_bpf_api_last_heard_timestamp_seconds{kind="EndpointSlice"} '
        _, text = self.get(PORTS[0], "/metrics")
        return float(text.partition(name)[2].partition("\n")[0])

    def get(self, port: int, path: str) -> tuple[int, str]:
        """A page of the proxy: status and text, headers included."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        name = self.sandbox.layout.netns("node1")
        try:
            namespace.call(name, connection.connect)
            connection.request("GET", path, headers={"Accept": "text/plain, */*"})
            response = connection.getresponse()
            return response.status, f"{response.headers}\n{response.read().decode()}"
        finally:
            connection.close()

    def present(self, *, authority: bool = False) -> None:
        """Let the server show a new certificate, of a new authority if wanted, and cut all."""
        if authority:
            self.identity.authority = trustme.CA()
        self.identity.issue()
        certificate, key = map(str, self.identity.certificate_files)
        self.fault(kind="certificate", cert=certificate, key=key)

    def demand(self, token: str) -> None:
        """Accept this token alone, and cut all connections."""
        self.fault(kind="token", token=token)
        self.fault(kind="disconnect")


@contextmanager
def secured(directory: Path) -> Iterator[tuple[World, Identity]]:
    identity = Identity(directory)
    certificate, key = map(str, identity.certificate_files)
    flags = ["--admin", "--no-validation", f"--bookmark-interval={BOOKMARK_S}"]
    flags += [f"--secure-listen=0.0.0.0:{SECURE_PORT}", f"--token={identity.token}"]
    flags += [f"--tls-cert={certificate}", f"--tls-key={key}"]
    options = Options(api_flags=tuple(flags), proxy=False)
    with World.up(f"kpbt-fc{os.getpid()}", "routed", options) as sandbox:
        assert isinstance(sandbox, World)
        address = sandbox.layout.gateway.v4
        sandbox.kubeconfig.write_text(identity.kubeconfig(address))
        sandbox.start_proxy("node1", flags=("--profiling",))
        sandbox.wait_ready()
        yield sandbox, identity


def pause(seconds: float) -> None:
    """Let a fault last; what comes of it is waited for, never assumed after a time."""
    time.sleep(seconds)
