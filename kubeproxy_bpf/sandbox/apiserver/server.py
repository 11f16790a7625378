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
        self.faults = Faults(self._wake)
        self._front = Front(self.store, self.registry, self.faults, options)
        self._admin = admin
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._tls: ssl.SSLContext | None = None
        self._address = ("127.0.0.1", 0)
        for namespace in _NAMESPACES:
            self.registry.apply(_named("v1", "Namespace", namespace))
        cidr_object = _named("networking.k8s.io/v1", "ServiceCIDR", "kubernetes")
        self.registry.apply({**cidr_object, "spec": {"cidrs": [str(cidr) for cidr in cidrs]}})

    @property
    def url(self) -> str:
        host, port = self._address
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self._tls else 'http'}://{shown}:{port}"

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
        self._tls = tls
        self._address = (host, port)
        await self.listen()
        return self.url

    async def stop(self) -> None:
        self._front.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def listen(self) -> None:
        """Accept connections, after ``start`` or a ``refuse``."""
        if self._runner is None:
            raise RuntimeError("the server is not started")
        host, port = self._address
        self._site = web.TCPSite(self._runner, host, port, ssl_context=self._tls)
        await self._site.start()
        self._address = (host, self._runner.addresses[0][1])

    async def refuse(self, seconds: float | None = None) -> None:
        """Close every connection and refuse new ones, for a time or until ``listen``."""
        if self._site is not None:
            await self._site.stop()
            self._site = None
        self.disconnect()
        if seconds is not None:
            await asyncio.sleep(seconds)
            await self.listen()

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
