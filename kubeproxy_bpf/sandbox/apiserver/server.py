# SPDX-License-Identifier: Apache-2.0
"""The embedded API server as one object: store, rules, HTTP front, faults, and its life.

    server = ApiServer()
    url = await server.start()
    server.registry.apply({...})      # as a cluster would, with defaults
    server.store.put({...})           # as it is
    await server.stop()

``python -m kubeproxy_bpf.sandbox.apiserver`` runs it as a process of its own.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Sequence

import yaml
from aiohttp import web

from .admin import add_admin_routes
from .body import Loader
from .faults import Fault, Faults
from .front import Front, Options
from .registry import Registry
from .services import Network, ServiceRules
from .status import Json
from .store import Store

DEFAULT_CIDRS: tuple[Network, ...] = (
    ipaddress.ip_network("10.96.0.0/16"),
    ipaddress.ip_network("fd00:10:96::/112"),
)
_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


@dataclass
class _Listener:
    """Where we listen; port 0 becomes the one that was given to us."""

    host: str
    port: int
    tls: ssl.SSLContext | None

    @property
    def url(self) -> str:
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{shown}:{self.port}"


class ApiServer:
    def __init__(
        self,
        *,
        cidrs: Sequence[Network] = DEFAULT_CIDRS,
        window: int = 10_000,
        validate: bool = True,
        admin: bool = False,
        options: Options = Options(),
    ) -> None:
        self.store = Store(window)
        self.registry = Registry(self.store, ServiceRules(self.store, cidrs), validate=validate)
        self.faults = Faults(self._wake, lambda: self.store.version)
        self._front = Front(self.store, self.registry, self.faults, options)
        self._admin = admin
        self._runner: web.AppRunner | None = None
        self._sites: list[web.TCPSite] = []
        self._listeners: list[_Listener] = []
        for namespace in _NAMESPACES:
            self.registry.apply(_named("v1", "Namespace", namespace))
        cidr_object = _named("networking.k8s.io/v1", "ServiceCIDR", "kubernetes")
        self.registry.apply({**cidr_object, "spec": {"cidrs": [str(cidr) for cidr in cidrs]}})

    @property
    def url(self) -> str:
        return self._listeners[0].url

    async def start(
        self, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> str:
        """Listen, in the network namespace of the calling thread, and return the URL."""
        app = web.Application(client_max_size=64 << 20)
        if self._admin:
            add_admin_routes(app, self)
        app.router.add_route("*", "/{path:.*}", self._front.handle)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0
        )
        await self._runner.setup()
        return await self.listen_too(host, port, tls)

    async def listen_too(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> str:
        """Listen at one more address and return its URL."""
        listener = _Listener(host, port, tls)
        self._listeners.append(listener)
        await self._open(listener)
        return listener.url

    async def stop(self) -> None:
        self._front.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def listen(self) -> None:
        """Accept connections again, after ``refuse``."""
        for listener in self._listeners:
            await self._open(listener)

    async def _open(self, listener: _Listener) -> None:
        if self._runner is None:
            raise RuntimeError("the server is not started")
        site = web.TCPSite(
            self._runner, listener.host, listener.port, ssl_context=listener.tls, reuse_address=True
        )
        await site.start()
        self._sites.append(site)
        listener.port = self._runner.addresses[-1][1]

    async def refuse(self, seconds: float | None = None) -> None:
        """Close every connection and refuse new ones, for a time or until ``listen``."""
        while self._sites:
            await self._sites.pop().stop()
        self.disconnect()
        if seconds is not None:
            await asyncio.sleep(seconds)
            await self.listen()

    async def flap(self, times: int, up_s: float, down_s: float) -> None:
        """Be gone and there again, so many times."""
        for _ in range(times):
            await self.refuse(down_s)
            await asyncio.sleep(up_s)

    def set_certificate(self, cert: str, key: str) -> None:
        """Prove ourselves by another certificate from now on, and cut all connections."""
        for listener in self._listeners:
            if listener.tls is not None:
                listener.tls.load_cert_chain(cert, key)
        self.disconnect()

    def disconnect(self) -> None:
        """Reset every connection."""
        server = self._runner.server if self._runner else None
        for connection in list(server.connections) if server else ():
            if connection.transport is not None:
                connection.transport.abort()

    def add_fault(self, **fields: object) -> Fault:
        """Let something go wrong; the fields are those of ``Fault``."""
        return self.faults.add_fields(fields)

    def set_token(self, token: str) -> None:
        """Accept this bearer token only; others get 401."""
        self._front.options = self._front.options._replace(token=token)

    def renumber(self, first: int) -> None:
        """Give all objects new versions from ``first`` on and cut all connections, as a restore."""
        self.store.renumber(first)
        self.disconnect()

    def load_manifests(self, paths: Iterable[Path | str]) -> None:
        """Apply every object of YAML files, or of all YAML files of directories."""
        for path in map(Path, paths):
            files = sorted(path.glob("*.y*ml")) if path.is_dir() else [path]
            for file in files:
                for document in yaml.load_all(file.read_text(), Loader):
                    self._load(document)

    def _load(self, document: Json | None) -> None:
        if not document:
            return
        if document.get("kind", "").endswith("List") and "items" in document:
            for item in document["items"]:
                self.registry.apply(item)
        else:
            self.registry.apply(document)

    def _wake(self) -> None:
        self._front.wake()


def _named(api_version: str, kind: str, name: str) -> Json:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}}
