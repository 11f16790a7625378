# SPDX-License-Identifier: Apache-2.0
"""What is measured of requests to an API server, over real HTTP on loopback."""

from __future__ import annotations

import time
from typing import Any

import aiohttp
import pytest

from kubeproxy_bpf.api.client import ApiClient
from kubeproxy_bpf.api.credentials import Credentials
from kubeproxy_bpf.api.meters import RestMeters
from kubeproxy_bpf.api.status import StatusError

from .conftest import Rig, until
from .scripted_server import ScriptedServer, service
from .steps import answer

SERVICES = "/api/v1/services"


def seen(meters: RestMeters, name: str) -> dict[tuple[str, ...], Any]:
    (family,) = [family for family in meters.families() if family.name == name]
    return dict(family.series)


async def ask(client: ApiClient, *params: tuple[str, str]) -> None:
    async with client.get(SERVICES, params, 5.0, compressed=True) as body:
        await body.read()


async def connected(port: int, meters: RestMeters) -> ApiClient:
    credentials = Credentials(master=f"http://127.0.0.1:{port}")
    await credentials.load()
    return ApiClient(credentials, meters=meters)


async def test_a_list_is_a_request_with_a_duration_and_sizes(server: ScriptedServer) -> None:
    """By status, host with its port, and method; the size is that of the text."""
    for number in range(40):
        server.put(service(f"service-{number}"))
    meters = RestMeters()
    async with await connected(server.port, meters) as client:
        await ask(client, ("limit", "500"))
    host = f"127.0.0.1:{server.port}"

    assert {("200", host, "GET"): 1} == seen(meters, "rest_client_requests_total")
    assert {(host, "GET")} == seen(meters, "rest_client_request_duration_seconds").keys()
    assert 0 == seen(meters, "rest_client_request_size_bytes")[host, "GET"].sum
    assert 4000 < seen(meters, "rest_client_response_size_bytes")[host, "GET"].sum < 40000


async def test_refusals_and_repetitions_are_told_apart(server: ScriptedServer) -> None:
    """Each by its status; a request with renewed credentials, and one that was asked to come
    back, are repetitions."""
    meters = RestMeters()
    server.script.extend(
        [answer(403), answer(401), None, answer(429, headers={"Retry-After": "1"})]
    )
    async with await connected(server.port, meters) as client:
        with pytest.raises(StatusError):
            await ask(client)
        await ask(client)
        with pytest.raises(StatusError):
            await ask(client)
    host = f"127.0.0.1:{server.port}"

    codes = {code: n for (code, _, _), n in seen(meters, "rest_client_requests_total").items()}
    assert {"403": 1, "401": 1, "200": 1, "429": 1} == codes
    retries = {("401", host, "GET"): 1, ("429", host, "GET"): 1}
    assert retries == seen(meters, "rest_client_request_retries_total")


async def test_no_answer_is_an_error(server: ScriptedServer) -> None:
    """Counted, as Kubernetes' client does, under a status that is none."""
    meters = RestMeters()
    await server.stop()
    async with await connected(server.port, meters) as client:
        with pytest.raises(aiohttp.ClientError):
            await ask(client)

    requests = seen(meters, "rest_client_requests_total")
    assert {("<error>", f"127.0.0.1:{server.port}", "GET"): 1} == requests


async def test_a_watch_is_heard_and_has_no_duration(rig: Rig, server: ScriptedServer) -> None:
    """It lasts as long as it can; a bookmark alone shows that it lives."""
    server.put(service("web"))
    async with rig.following():
        await until(lambda: server.watching)
        meters = rig.meters
        heard = "kubeproxy_bpf_api_last_heard_timestamp_seconds"
        await until(lambda: seen(meters, heard))
        before = seen(meters, heard)[("Service",)]
        server.bookmark()
        await until(lambda: seen(meters, heard)[("Service",)] > before)

    assert abs(time.time() - before) < 60
    assert {} == seen(meters, "rest_client_request_duration_seconds")
    assert {"200"} == {code for code, _, _ in seen(meters, "rest_client_requests_total")}


async def test_failures_of_a_kind_are_counted(rig: Rig, server: ScriptedServer) -> None:
    """Whatever ended the list or watch."""
    server.script.extend([answer(500), answer(500)])
    async with rig.following():
        await until(lambda: server.watching)

    assert {("Service",): 2} == seen(rig.meters, "kubeproxy_bpf_api_failures_total")
