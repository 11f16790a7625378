# SPDX-License-Identifier: Apache-2.0
"""What of the configuration decides which servers run, and what a sync means for those who ask."""

from __future__ import annotations

import asyncio
import socket

import pytest

from kubeproxy_bpf.api.client import ApiClient
from kubeproxy_bpf.api.credentials import Credentials
from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.model.cluster import Step
from kubeproxy_bpf.model.health import HealthCheck
from kubeproxy_bpf.model.types import Changes, Family, ServicePortId
from kubeproxy_bpf.serve.listener import BindFailed
from kubeproxy_bpf.status import Status
from kubeproxy_bpf.telemetry import Telemetry
from tests.fix_objects import ip, service
from tests.unit.serve.test_healthz import fetch, free_port


def made(**fields) -> Status:
    return Status(Config(hostname="n1", **fields), (Family.IPV4, Family.IPV6))


def tasks(status: Status, **fields) -> dict:
    telemetry = Telemetry(Config(hostname="n1", **fields), ("IPv4", "IPv6"), lambda: False)
    return dict(status.tasks(ApiClient(Credentials(master="http://127.0.0.1:9")), telemetry))


def test_health_may_be_served_nowhere() -> None:
    """--healthz-port=0; everything else runs as ever."""
    usual, without = tasks(made()), tasks(made(healthz_bind_address=""))
    assert {"health server"} == usual.keys() - without.keys()
    assert {"metrics server", "event recorder"} <= without.keys()


@pytest.mark.parametrize("name", ["health", "metrics"])
async def test_a_port_is_waited_for_unless_it_must_be_had(name: str) -> None:
    """bindAddressHardFail ends both servers, with an event; without it both wait."""
    with socket.create_server(("127.0.0.1", 0)) as blocker:
        address = f"127.0.0.1:{blocker.getsockname()[1]}"
        addresses = {"healthz_bind_address": address, "metrics_bind_address": address}
        patient = asyncio.create_task(tasks(made(**addresses))[f"{name} server"]())
        strict = tasks(made(**addresses, bind_address_hard_fail=True))[f"{name} server"]
        with pytest.raises(BindFailed):
            await strict()
        assert not patient.done()
        patient.cancel()
        await asyncio.gather(patient, return_exceptions=True)


async def test_a_sync_opens_health_checks_when_it_has_ended() -> None:
    """Nobody is told of an endpoint that is not programmed yet."""
    status, key, port = made(), service().key, free_port()
    runner = asyncio.create_task(status.service_health.run())
    try:
        check = HealthCheck(key, Family.IPV4, port, 1)
        status.taken(Step(Changes({}, {}), (), {key: (check,)}))
        await asyncio.sleep(0.05)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        status.synced()
        assert 200 == await fetch(f"http://127.0.0.1:{port}", status_of)
    finally:
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)


async def status_of(answer) -> int:
    return int(answer.status)


@pytest.mark.parametrize(
    "changes",
    [
        Changes({ServicePortId("service", "d", "w", "", 6, 6): None}, {}),
        Changes({}, {ip("fd00::1"): 0}),
    ],
)
def test_only_families_that_a_sync_touches_can_suffer(changes: Changes) -> None:
    """A change of IPv6 that is not programmed leaves IPv4 healthy."""
    status = made(sync_period_s=0.0)
    status.health.change_queued()
    status.taken(Step(changes, ()))
    _, body = status.health.livez()
    assert {"IPv4": True, "IPv6": False} == {
        family: state["healthy"] for family, state in body["status"].items()
    }
