# SPDX-License-Identifier: Apache-2.0
"""The server as a process of its own: arguments, readiness, TLS, namespaces, the bulk cluster."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import signal
import ssl
import sys
from pathlib import Path
from typing import AsyncIterator

import aiohttp
import pytest
import trustme

from .conftest import SERVICES, Client, service

COMMAND = [sys.executable, "-m", "kubeproxy_bpf.sandbox.apiserver"]


@contextlib.asynccontextmanager
async def running(
    *arguments: str, prefix: tuple[str, ...] = (), pids: list[int] | None = None
) -> AsyncIterator[str]:
    """A server process; gives its URL, and demands that SIGTERM ends it well."""
    process = await asyncio.create_subprocess_exec(
        *prefix, *COMMAND, *arguments, stdout=asyncio.subprocess.PIPE
    )
    if pids is not None:
        pids.append(process.pid)
    try:
        assert process.stdout
        url = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()
        assert url.startswith("http"), "the server did not start"
        yield url
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()


async def test_manifests_are_served_and_readiness_is_told(tmp_path: Path) -> None:
    """Files and directories are loaded; the port file and descriptor tell where."""
    (tmp_path / "more").mkdir()
    (tmp_path / "a.yaml").write_text(json.dumps(service("a")))
    items = {"kind": "List", "apiVersion": "v1", "items": [service("b"), service("c")]}
    (tmp_path / "more" / "b.yml").write_text(f"{json.dumps(items)}\n---\n")
    port_file, out = tmp_path / "port", tmp_path / "ready"
    manifests = ["--manifest", str(tmp_path / "a.yaml"), "--manifest", str(tmp_path / "more")]
    ready = ["--port-file", str(port_file), "--ready-fd", "9"]
    shell = ("sh", "-c", f'exec "$@" 9>{out}', "sh")
    async with running(*manifests, *ready, prefix=shell) as url:
        assert port_file.read_text().strip() == url.rpartition(":")[2]
        assert out.read_text().strip() == url
        async with aiohttp.ClientSession() as session:
            assert await Client(session, url).names(SERVICES) == ["a", "b", "c"]


async def test_impossible_objects_are_stored_without_validation() -> None:
    """--no-validation stores a word as a port, a foreign cluster IP and an unknown protocol."""
    bad = service("bad", clusterIP="banana", ports=[{"port": "word", "protocol": "QUIC"}])
    async with aiohttp.ClientSession() as session:
        async with running("--no-validation") as url:
            answer = await Client(session, url).call("POST", SERVICES, bad)
            assert answer.status == 201
            assert answer.body["spec"]["clusterIP"] == "banana"
            assert answer.body["spec"]["ports"][0]["port"] == "word"
        async with running() as url:
            assert (await Client(session, url).call("POST", SERVICES, bad)).status == 422


async def test_other_ranges_and_ipv6() -> None:
    """The service ranges are given on the command line, and the server listens on IPv6."""
    cidrs = ["--service-cidr", "fd00:99::/112", "--service-cidr", "10.99.0.0/24"]
    async with running("--listen", "[::1]:0", *cidrs) as url, aiohttp.ClientSession() as session:
        assert url.startswith("http://[::1]:")
        wanted = service("a", ipFamilyPolicy="PreferDualStack")
        spec = (await Client(session, url).call("POST", SERVICES, wanted)).body["spec"]
    assert spec["ipFamilies"] == ["IPv6", "IPv4"]
    assert spec["clusterIPs"] == ["fd00:99::2", "10.99.0.2"]


async def test_tls_with_token_or_client_certificate(tmp_path: Path) -> None:
    """Over TLS a client certificate or the token lets in; neither is 401."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    known, unknown = ssl.create_default_context(), ssl.create_default_context()
    for context in (known, unknown):
        authority.configure_trust(context)
    authority.issue_cert("client@example.org").configure_cert(known)
    tls = ["--tls-cert", str(tmp_path / "cert"), "--tls-key", str(tmp_path / "key")]
    access = ["--client-ca", str(tmp_path / "ca"), "--token", "t"]
    token = {"Authorization": "Bearer t"}
    async with running(*tls, *access) as url, aiohttp.ClientSession() as session:
        for context, headers, code in ((known, {}, 200), (unknown, {}, 401), (unknown, token, 200)):
            async with session.get(url + "/version", ssl=context, headers=headers) as response:
                assert response.status == code


async def test_the_bulk_cluster_is_served_whole() -> None:
    """--bulk fills the server with Services and slices that a list and a WatchList deliver."""
    async with running("--bulk", "300x10", "--gzip") as url, aiohttp.ClientSession() as session:
        client = Client(session, url)
        assert len(await client.names("/api/v1/services")) == 300
        path = "/apis/discovery.k8s.io/v1/endpointslices"
        query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        async with client.watch(path, allowWatchBookmarks="true", **query) as watch:
            events = await watch.until_bookmark()
        assert len(events) == 301
        headers = {"Accept-Encoding": "gzip"}
        async with session.get(url + path, headers=headers, auto_decompress=False) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            listed = json.loads(gzip.decompress(await response.read()))
        assert sum(len(item["endpoints"]) for item in listed["items"]) == 3000


@pytest.mark.root
async def test_it_listens_in_its_network_namespace() -> None:
    """Started within a network namespace, it is reachable there and not outside."""
    enter = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
    pids: list[int] = []
    async with running(prefix=enter, pids=pids) as url, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await Client(session, url).get("/version")
        inside = ["nsenter", f"--net=/proc/{pids[0]}/ns/net", sys.executable, "-c", _READ, url]
        process = await asyncio.create_subprocess_exec(*inside, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        assert b"v1.36.0" in out


_READ = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1] + '/version').read())"


async def _refused(*arguments: str) -> str:
    """What a server that does not start says."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode in (1, 2)
    return err.decode().strip().splitlines()[-1]


async def test_what_cannot_work_ends_the_process_with_a_reason(tmp_path: Path) -> None:
    """A taken port, an unknown kind, a missing file and contradicting options are one line each."""
    async with running() as url:
        taken = await _refused("--listen", f"127.0.0.1:{url.rpartition(':')[2]}")
    assert "address already in use" in taken
    (tmp_path / "a.yaml").write_text("{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}")
    assert 'no kind "Deployment"' in await _refused("--manifest", str(tmp_path / "a.yaml"))
    assert "No such file" in await _refused("--manifest", str(tmp_path / "none.yaml"))
    assert "--tls-cert" in await _refused("--client-ca", "x")
    cidrs = ["--service-cidr", "10.0.0.0/24", "--service-cidr", "10.1.0.0/24"]
    assert "one per family" in await _refused(*cidrs)
