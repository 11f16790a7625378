# SPDX-License-Identifier: Apache-2.0
"""Who we say we are: tokens that rotate, plugins, certificates, service accounts."""

from __future__ import annotations

import json
import os
import ssl
import stat
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, AsyncIterator

import pytest
import trustme
import yaml
from aiohttp import web

from kubeproxy_bpf.api.client import ApiClient
from kubeproxy_bpf.api.credentials import Credentials
from kubeproxy_bpf.api.status import StatusError
from kubeproxy_bpf.errors import ConfigError

from .scripted_server import ScriptedServer, status

SERVICES = "/api/v1/services"


def write_kubeconfig(
    path: Path, server: str, user: dict[str, Any], cluster: dict[str, Any] | None = None
) -> str:
    """A kubeconfig as kubeadm writes it: one cluster, one user, one context."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default", "cluster": {"server": server, **(cluster or {})}}],
        "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
        "current-context": "default",
        "users": [{"name": "default", "user": user}],
    }
    path.write_text(yaml.safe_dump(document))
    return str(path)


@asynccontextmanager
async def client_of(credentials: Credentials) -> AsyncIterator[ApiClient]:
    await credentials.load()
    async with ApiClient(credentials) as client:
        yield client


async def ask(client: ApiClient) -> bytes:
    async with client.get(SERVICES, [("limit", "1")], 5.0) as body:
        return await body.read()


def demand(server: ScriptedServer, token: str) -> None:
    """From now on only this token is right."""

    async def check(request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") == f"Bearer {token}":
            return None
        return web.json_response(status(401, "Unauthorized"), status=401)

    server.always = check


def url(server: ScriptedServer, scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{server.port}"


async def test_token_files_are_stripped_and_read_again(
    server: ScriptedServer, tmp_path: Path
) -> None:
    """A rotated token file counts from the next request on; its line end is no part of it."""
    token = tmp_path / "token"
    token.write_text("first\n")
    config = write_kubeconfig(tmp_path / "config", url(server), {"tokenFile": "token"})
    async with client_of(Credentials(config)) as client:
        demand(server, "first")
        await ask(client)
        demand(server, "second")
        token.write_text("second\n")
        await ask(client)
    assert len(server.requests) == 2


async def test_projected_tokens_that_are_swapped_by_symlink_are_noticed(
    server: ScriptedServer, tmp_path: Path
) -> None:
    """The kubelet swaps a directory link; the path of the token stays the same."""
    for name, text in (("one", "first"), ("two", "other")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(text)
        os.utime(tmp_path / name / "token", (1, 1))
    (tmp_path / "data").symlink_to("one")
    config = write_kubeconfig(tmp_path / "config", url(server), {"tokenFile": "data/token"})
    async with client_of(Credentials(config)) as client:
        demand(server, "first")
        await ask(client)
        demand(server, "other")
        (tmp_path / "new").symlink_to("two")
        (tmp_path / "new").rename(tmp_path / "data")
        await ask(client)
    assert len(server.requests) == 2


async def test_a_token_file_wins_over_an_inline_token(
    server: ScriptedServer, tmp_path: Path
) -> None:
    """As in client-go."""
    (tmp_path / "token").write_text("fresh")
    user = {"token": "stale", "tokenFile": "token"}
    demand(server, "fresh")
    async with client_of(
        Credentials(write_kubeconfig(tmp_path / "c", url(server), user))
    ) as client:
        await ask(client)
    assert len(server.requests) == 1


async def test_401_renews_the_credentials_and_repeats_the_request_once(
    server: ScriptedServer, tmp_path: Path
) -> None:
    """A token that was replaced behind our back is found; one that stays wrong is an error."""
    config = write_kubeconfig(tmp_path / "config", url(server), {"token": "old"})
    credentials = Credentials(config)
    async with client_of(credentials) as client:
        before = os.stat(config)
        write_kubeconfig(tmp_path / "config", url(server), {"token": "new"})
        os.utime(config, ns=(before.st_atime_ns, before.st_mtime_ns))
        demand(server, "new")
        await ask(client)
        assert len(server.requests) == 2
        demand(server, "unknown")
        with pytest.raises(StatusError) as raised:
            await ask(client)
    assert raised.value.status == 401
    assert len(server.requests) == 4


async def test_a_source_that_is_unreadable_for_a_moment_is_no_failure(
    server: ScriptedServer, tmp_path: Path
) -> None:
    """While the token file is away, what we had goes on to be used."""
    token = tmp_path / "token"
    token.write_text("first")
    config = write_kubeconfig(tmp_path / "config", url(server), {"tokenFile": "token"})
    async with client_of(Credentials(config)) as client:
        demand(server, "first")
        token.unlink()
        await ask(client)
        token.write_text("again")
        demand(server, "again")
        await ask(client)
    assert len(server.requests) == 2


def write_plugin(path: Path, expires: str | None) -> dict[str, Any]:
    """An exec plugin that counts its runs and hands out token-1, token-2 ..."""
    runs = path.with_suffix(".runs")
    credential: dict[str, Any] = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "token-@"},
    }
    if expires is not None:
        credential["status"]["expirationTimestamp"] = expires
    text = json.dumps(credential)
    path.write_text(
        f"#!/bin/sh\necho >> {runs}\nn=$(wc -l < {runs})\necho '{text}' | sed \"s/@/$n/\"\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    api_version = credential["apiVersion"]
    return {"exec": {"apiVersion": api_version, "command": str(path), "interactiveMode": "Never"}}


def runs_of(path: Path) -> int:
    return len(path.with_suffix(".runs").read_text())


@pytest.mark.parametrize("expires", [None, "2999-01-01T00:00:00Z"])
async def test_an_exec_plugin_runs_once_until_401(
    server: ScriptedServer, tmp_path: Path, expires: str | None
) -> None:
    """Its token is kept until it expires or is refused."""
    user = write_plugin(tmp_path / "plugin", expires)
    config = write_kubeconfig(tmp_path / "config", url(server), user)
    async with client_of(Credentials(config)) as client:
        demand(server, "token-1")
        await ask(client)
        await ask(client)
        assert runs_of(tmp_path / "plugin") == 1
        demand(server, "token-2")
        await ask(client)
    assert runs_of(tmp_path / "plugin") == 2


async def test_an_exec_plugin_runs_again_when_its_token_has_expired(
    server: ScriptedServer, tmp_path: Path
) -> None:
    """No 401 is needed to notice an expirationTimestamp that has passed."""
    user = write_plugin(tmp_path / "plugin", "2001-01-01T00:00:00Z")
    config = write_kubeconfig(tmp_path / "config", url(server), user)
    async with client_of(Credentials(config)) as client:
        demand(server, "token-2")
        await ask(client)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "text",
    ["", "[]", "current-context: x", "a: [", "contexts: 7", "current-context: [x]"]
    + ["contexts: [{name: x, context: {cluster: y}}]\ncurrent-context: x"],
)
async def test_a_broken_kubeconfig_is_a_configuration_error(tmp_path: Path, text: str) -> None:
    """Whatever is wrong with the file, the error names it and is of one kind."""
    (tmp_path / "config").write_text(text)
    with pytest.raises(ConfigError, match="config"):
        await Credentials(str(tmp_path / "config")).load()


async def test_a_missing_kubeconfig_is_a_configuration_error(tmp_path: Path) -> None:
    """So is one that is not there."""
    with pytest.raises(ConfigError, match="config"):
        await Credentials(str(tmp_path / "config")).load()


async def test_basic_authentication(server: ScriptedServer, tmp_path: Path) -> None:
    """User name and password travel as Basic credentials."""
    user = {"username": "alice", "password": "secret"}
    async with client_of(
        Credentials(write_kubeconfig(tmp_path / "c", url(server), user))
    ) as client:
        await ask(client)
    assert server.headers[0]["Authorization"] == "Basic YWxpY2U6c2VjcmV0"


async def test_master_overrides_the_server(server: ScriptedServer, tmp_path: Path) -> None:
    """--master wins over the kubeconfig's address and leaves its credentials."""
    config = write_kubeconfig(tmp_path / "c", "http://127.0.0.1:1", {"token": "mine"})
    async with client_of(Credentials(config, master=f"127.0.0.1:{server.port}")) as client:
        await ask(client)
    assert server.headers[0]["Authorization"] == "Bearer mine"
    assert server.headers[0]["User-Agent"].startswith("kube-proxy-bpf/")


async def test_proxy_url_is_used(server: ScriptedServer, tmp_path: Path) -> None:
    """proxy-url of the kubeconfig: the request goes to the proxy, whole URL and all."""
    cluster = {"proxy-url": url(server)}
    config = write_kubeconfig(tmp_path / "c", "http://api.invalid:6443", {}, cluster)
    async with client_of(Credentials(config)) as client:
        await ask(client)
    assert server.headers[0]["Host"] == "api.invalid:6443"


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(ca: trustme.CA, name: str, client_ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(name).configure_cert(context)
    client_ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_files(ca: trustme.CA, client_ca: trustme.CA, directory: Path) -> dict[str, str]:
    """CA, client certificate and key as files."""
    issued = client_ca.issue_cert("node@example.org")
    ca.cert_pem.write_to_path(str(directory / "ca.crt"))
    issued.private_key_pem.write_to_path(str(directory / "client.key"))
    (directory / "client.crt").write_bytes(b"".join(p.bytes() for p in issued.cert_chain_pems))
    return {"client-certificate": "client.crt", "client-key": "client.key"}


@pytest.fixture
async def tls_server(authority: trustme.CA) -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    await scripted.start(server_context(authority, "127.0.0.1", authority))
    yield scripted
    await scripted.stop()


async def test_a_private_authority_and_client_certificates(
    tls_server: ScriptedServer, authority: trustme.CA, tmp_path: Path
) -> None:
    """Both sides prove themselves; a client that does not know the authority refuses."""
    user = client_files(authority, authority, tmp_path)
    cluster = {"certificate-authority": "ca.crt"}
    address = url(tls_server, "https")
    config = write_kubeconfig(tmp_path / "good", address, user, cluster)
    async with client_of(Credentials(config)) as client:
        await ask(client)
    stranger = write_kubeconfig(tmp_path / "bad", address, user)
    async with client_of(Credentials(stranger)) as client:
        with pytest.raises(OSError, match="certificate"):
            await ask(client)
    assert len(tls_server.requests) == 1


async def test_a_new_authority_and_a_renewed_certificate_are_taken_up(
    authority: trustme.CA, tmp_path: Path
) -> None:
    """Certificates that change on disk count for the next connection, without a restart."""
    user = client_files(authority, authority, tmp_path)
    server = ScriptedServer()
    await server.start(server_context(authority, "127.0.0.1", authority))
    try:
        cluster = {"certificate-authority": "ca.crt"}
        config = write_kubeconfig(tmp_path / "c", url(server, "https"), user, cluster)
        async with client_of(Credentials(config)) as client:
            await ask(client)
            await server.stop()
            renewed = trustme.CA()
            client_files(renewed, renewed, tmp_path)
            await server.start(server_context(renewed, "127.0.0.1", renewed))
            await ask(client)
    finally:
        await server.stop()
    assert len(server.requests) == 2


async def test_tls_server_name_is_what_the_certificate_must_show(
    authority: trustme.CA, tmp_path: Path
) -> None:
    """The server is reached by one name and proves another."""
    user = client_files(authority, authority, tmp_path)
    server = ScriptedServer()
    await server.start(server_context(authority, "kubernetes.example.org", authority))
    try:
        cluster = {"certificate-authority": "ca.crt"}
        plain = write_kubeconfig(tmp_path / "a", url(server, "https"), user, cluster)
        cluster["tls-server-name"] = "kubernetes.example.org"
        named = write_kubeconfig(tmp_path / "b", url(server, "https"), user, cluster)
        async with client_of(Credentials(plain)) as client:
            with pytest.raises(OSError, match="certificate"):
                await ask(client)
        async with client_of(Credentials(named)) as client:
            await ask(client)
    finally:
        await server.stop()
    assert len(server.requests) == 1


async def test_service_account(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside a cluster: address from the environment, token and authority from the mount."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = ScriptedServer()
    await server.start(context)
    try:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
        (tmp_path / "token").write_text("account-1\n")
        async with client_of(Credentials(service_account=tmp_path)) as client:
            demand(server, "account-1")
            await ask(client)
            (tmp_path / "token").write_text("account-two\n")
            demand(server, "account-two")
            await ask(client)
    finally:
        await server.stop()
    assert len(server.requests) == 2


async def test_outside_of_a_cluster_without_kubeconfig_is_a_configuration_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No address anywhere: said at the start."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError):
        await Credentials(service_account=tmp_path).load()
