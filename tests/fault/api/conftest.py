# SPDX-License-Identifier: Apache-2.0
"""A scripted API server, a clock that only pretends to sleep, and a reflector between them."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any, AsyncIterator, Callable

import pytest

from kubeproxy_bpf.api.client import ApiClient
from kubeproxy_bpf.api.credentials import Credentials
from kubeproxy_bpf.api.decode import ApiObject, Kind
from kubeproxy_bpf.api.meters import RestMeters
from kubeproxy_bpf.api.objects import ObjectKey, Service
from kubeproxy_bpf.api.reflector import Reflector, ReflectorSettings
from kubeproxy_bpf.api.resources import Resource, services
from kubeproxy_bpf.api.store import Store

from .scripted_server import ScriptedServer

PROMPT = ReflectorSettings(initial_idle_s=0.3, initial_limit_s=1.0, list_stall_s=5.0)


class FastClock:
    """Sleeps take no time but count: what would last an hour is over at once."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return time.monotonic() + sum(self.slept)

    def wall(self) -> float:
        return 1_800_000_000.0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0.001)


class Journal:
    """A subscriber that writes everything down."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, bool, bool]] = []
        self.synced = 0

    def on_change(
        self, kind: Kind, key: ObjectKey, old: ApiObject | None, new: ApiObject | None
    ) -> None:
        self.changes.append((key.name, old is not None, new is not None))

    def on_recalled(self) -> None:
        """Nothing is recalled here."""

    def on_synced(self) -> None:
        self.synced += 1


class Rig:
    """A reflector that follows the Services of a scripted server."""

    def __init__(self, server: ScriptedServer, clock: FastClock) -> None:
        self.server = server
        self.clock = clock
        self.store = Store({Kind.SERVICE: lambda objects: True})
        self.journal = Journal()
        self.meters = RestMeters()
        self.store.subscribe(self.journal)
        self.client: ApiClient
        """Of the one that follows last."""

    @property
    def ports(self) -> dict[str, int]:
        """What is known: the first port of each Service by name."""
        objects = self.store.objects(Kind.SERVICE).values()
        return {o.name: o.ports[0].port for o in objects if isinstance(o, Service)}

    @asynccontextmanager
    async def following(
        self, resource: Resource | None = None, **settings: Any
    ) -> AsyncIterator[None]:
        credentials = Credentials(master=f"http://127.0.0.1:{self.server.port}")
        await credentials.load()
        async with ApiClient(credentials, self.clock, self.meters) as client:
            self.client = client
            resource = resource or services()
            reflector = Reflector(
                client,
                resource,
                self.store.sink(resource.kind),
                replace(PROMPT, **settings),
                self.clock,
                Random(7),
            )
            task = asyncio.create_task(reflector.run())
            try:
                yield
                assert not task.done(), task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], Any], what: str = "") -> None:
    """Wait for a condition; the limit only ends a hopeless test."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    await scripted.start()
    yield scripted
    await scripted.stop()


@pytest.fixture
def clock() -> FastClock:
    return FastClock()


@pytest.fixture
def rig(server: ScriptedServer, clock: FastClock) -> Rig:
    return Rig(server, clock)
