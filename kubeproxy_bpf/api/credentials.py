# SPDX-License-Identifier: Apache-2.0
"""Where the API server is and how we prove who we are, kept up to date.

kubernetes_asyncio reads kubeconfig, service account and exec plugins; this adds what a process that
runs for months needs: files that change (rotated tokens, renewed certificates, a new CA) are
noticed at the next request, an exec plugin runs again when its credential expires, and ``renew``
reads everything anew after a 401. Called by ``api.client``.
"""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import yaml

from kubeproxy_bpf.api.plumbing import import_plumbing
from kubeproxy_bpf.config.bounds import check_yaml, read_bounded
from kubeproxy_bpf.errors import ConfigError

log = structlog.get_logger("api")

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_USERINFO = re.compile(r"(?<=//)[^/\s]*@")

Signature = tuple[tuple[int, int, int] | None, ...]


@dataclass
class Connection:
    """What the loaders fill in: named as the fields of kubernetes_asyncio's Configuration."""

    host: str = ""
    api_key: dict[str, str] = field(default_factory=dict)
    ssl_ca_cert: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify_ssl: bool = True
    tls_server_name: str | None = None
    proxy: str | None = None

    @property
    def authorization(self) -> str | None:
        """Value of the Authorization header: token files end in a newline, headers must not."""
        scheme, _, secret = self.api_key.get("BearerToken", "").strip().partition(" ")
        return f"{scheme} {secret.strip()}" if secret.strip() else None

    @property
    def tls_files(self) -> tuple[str | None, ...]:
        return self.ssl_ca_cert, self.cert_file, self.key_file


class Credentials:
    """The way to the API server, read anew whenever its files change."""

    def __init__(
        self,
        kubeconfig: str | None = None,
        master: str | None = None,
        service_account: Path = SERVICE_ACCOUNT,
    ) -> None:
        """``kubeconfig`` None: in-cluster, or no credentials at all if ``master`` is given.
        ``master`` overrides the server's address."""
        self._kubeconfig = kubeconfig
        self._master = master
        self._service_account = service_account
        self._loader: Any = None
        self._read_from: tuple[str | None, ...] = ()
        self._signature: Signature = ()
        self._tls: ssl.SSLContext | None = None
        self._tls_signature: Signature = ()
        self.connection = Connection()

    async def load(self) -> None:
        """Read everything; ConfigError says what is wrong with it."""
        try:
            await self._load()
        except Exception as error:
            # The loaders raise whatever bad input happens to cause (assertions, KeyError, YAML
            # errors ...): at this seam all of it means the same.
            where = self._kubeconfig or str(self._service_account)
            told = self.without_secrets(str(error) or type(error).__name__)
            raise ConfigError([f"{where}: {told}"]) from error

    async def current(self) -> Connection:
        """The connection to use for the next request, renewed if its sources have changed."""
        if _signature(self._read_from) != self._signature:
            await self.renew()
        elif getattr(self._loader, "exec_plugin_expiry", None) is not None:
            await self._refresh_plugin()
        return self.connection

    async def renew(self) -> None:
        """Read everything anew; on failure what we had stays (a file may be in the making)."""
        try:
            await self.load()
        except ConfigError as error:
            log.warning("credentials_not_renewed", error=str(error))

    def without_secrets(self, text: str) -> str:
        """Text that may be shown to anybody: without our token, and user names in URLs."""
        scheme, _, secret = (self.connection.authorization or "").partition(" ")
        if secret:
            text = text.replace(secret, f"({scheme} credentials)")
        return _USERINFO.sub("", text)

    def tls(self) -> ssl.SSLContext:
        """The context for the current certificates, built anew when their files have changed."""
        signature = _signature(self.connection.tls_files)
        if self._tls is None or signature != self._tls_signature:
            self._tls = _tls_context(self.connection)
            self._tls_signature = signature
        return self._tls

    async def _load(self) -> None:
        plumbing = import_plumbing()
        connection, loader = Connection(), None
        sources: tuple[str | None, ...] = ()
        # Taken before reading: a file that changes meanwhile is read once more, not missed.
        if self._kubeconfig is not None:
            sources = (self._kubeconfig, _token_file(self._kubeconfig, user_of(self._kubeconfig)))
            signature = _signature(sources)
            loader = await plumbing.load_kube_config(
                config_file=self._kubeconfig, client_configuration=connection, persist_config=False
            )
            _prefer_token_file(connection, sources[1])
        elif self._master is None:
            sources = (str(self._service_account / "token"),)
            signature = _signature(sources)
            plumbing.load_incluster_config(
                client_configuration=connection,
                try_refresh_token=False,
                token_filename=sources[0],
                cert_filename=str(self._service_account / "ca.crt"),
            )
        else:
            signature = ()
        if self._master:
            connection.host = _with_scheme(self._master, connection)
        _check_token(connection.api_key.get("BearerToken", ""))
        self._loader = loader
        self._read_from, self._signature = sources, signature
        if connection.tls_files != self.connection.tls_files:
            self._tls = None
        self.connection = connection

    async def _refresh_plugin(self) -> None:
        """Run the exec plugin if its credential is about to expire; the loader knows when."""
        try:
            await self._loader.load_from_exec_plugin()
            _check_token(self._loader.token)
        except Exception as error:
            log.warning("exec_plugin_failed", error=self.without_secrets(str(error)))
            return
        self.connection.api_key["BearerToken"] = self._loader.token


def user_of(kubeconfig: str) -> dict[str, Any]:
    """The user entry of the current context, empty if there is none."""
    try:
        text = read_bounded(kubeconfig)
        check_yaml(text)
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        # Its text quotes the line at fault, which may be the one with the token.
        mark = getattr(error, "problem_mark", None)
        where = f" from line {mark.line + 1}, column {mark.column + 1} on" if mark else ""
        raise ValueError(f"not YAML{where}") from None
    if not isinstance(document, dict):
        raise ValueError("not a kubeconfig")
    context = _named(document, "contexts", document.get("current-context")).get("context") or {}
    return _named(document, "users", context.get("user")).get("user") or {}


def _named(document: dict[str, Any], section: str, name: str | None) -> dict[str, Any]:
    for entry in document.get(section) or ():
        if entry.get("name") == name:
            return dict(entry)
    return {}


def _token_file(kubeconfig: str, user: dict[str, Any]) -> str | None:
    path = user.get("tokenFile")
    return os.path.join(os.path.dirname(os.path.abspath(kubeconfig)), path) if path else None


def _prefer_token_file(connection: Connection, token_file: str | None) -> None:
    """A tokenFile wins over an inline token, as in client-go; the loader has it the other way."""
    if token_file is not None:
        token = Path(token_file).read_text(encoding="utf-8").strip()
        if not token:
            raise ValueError(f"{token_file} is empty")
        connection.api_key["BearerToken"] = f"Bearer {token}"


def _check_token(token: str) -> None:
    """A line break within a token would be another header; the message must not tell the token."""
    text = token.strip()
    if not (text.isascii() and text.isprintable()):
        raise ValueError("the token holds control characters, or others that no header can hold")


def _with_scheme(master: str, connection: Connection) -> str:
    if "://" in master:
        return master.rstrip("/")
    secure = any(connection.tls_files) or not connection.verify_ssl
    return f"{'https' if secure else 'http'}://{master.rstrip('/')}"


def _signature(paths: tuple[str | None, ...]) -> Signature:
    """What changes when a file is rewritten, or when a symlink on the way to it is swapped."""
    return tuple(None if path is None else _stat(path) for path in paths)


def _stat(path: str) -> tuple[int, int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _tls_context(connection: Connection) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=connection.ssl_ca_cert)
    # Python 3.13 turned this on; cluster CAs in the field lack the extensions that it demands, and
    # Go's clients do not ask for them.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not connection.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if connection.cert_file:
        context.load_cert_chain(connection.cert_file, connection.key_file)
    return context
