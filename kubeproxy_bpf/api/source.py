# SPDX-License-Identifier: Apache-2.0
"""The API side as one task: a reflector per resource, all feeding one store.

``ApiSource.run`` never returns; it ends with the first reflector that fails for a reason of our
own. Built and run by the application.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Collection, Mapping

import structlog

from kubeproxy_bpf.api.client import ApiClient
from kubeproxy_bpf.api.clock import Clock, SystemClock
from kubeproxy_bpf.api.decode import Kind
from kubeproxy_bpf.api.objects import Node, ObjectKey
from kubeproxy_bpf.api.reflector import Reflector, ReflectorSettings
from kubeproxy_bpf.api.resources import (
    Resource,
    endpoint_slices,
    node,
    pods_of,
    service_cidrs,
    services,
)
from kubeproxy_bpf.api.store import Objects, Store, anything

log = structlog.get_logger("api")

NODE_WAIT_S = 30.0
"""After this long without our Node we go on without it [K2]."""


def node_store() -> Store:
    """A store that opens when everything is known.

    That is Services, EndpointSlices, our Node with its addresses, and our Pods unless we may not
    see them: until then host ports would look deleted. Nobody waits for ServiceCIDRs.
    """
    return Store(
        {
            Kind.SERVICE: anything,
            Kind.ENDPOINT_SLICE: anything,
            Kind.NODE: _has_addresses,
            Kind.POD: anything,
        },
        optional=(Kind.POD,),
    )


def resources_for(node_name: str) -> tuple[Resource, ...]:
    return services(), endpoint_slices(), node(node_name), pods_of(node_name), service_cidrs()


class ApiSource:
    def __init__(
        self,
        client: ApiClient,
        store: Store,
        node_name: str,
        settings: ReflectorSettings = ReflectorSettings(),
        clock: Clock | None = None,
        random: Random | None = None,
        *,
        expected: Mapping[Kind, Collection[ObjectKey]] | None = None,
    ) -> None:
        """``expected``: what an earlier process knew; first lists are measured by it."""
        expected = expected or {}
        self._store = store
        self._node_name = node_name
        self._clock = clock or SystemClock()
        self._reflectors = [
            Reflector(
                client,
                resource,
                store.sink(resource.kind),
                settings,
                self._clock,
                random,
                expected=expected.get(resource.kind, ()),
            )
            for resource in resources_for(node_name)
        ]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for reflector in self._reflectors:
                tasks.create_task(reflector.run())
            tasks.create_task(self._give_up_on_node())

    async def _give_up_on_node(self) -> None:
        await self._clock.sleep(NODE_WAIT_S)
        if Kind.NODE in self._store.missing():
            log.warning("node_not_found", node=self._node_name, waited_s=NODE_WAIT_S)
            self._store.waive(Kind.NODE)


def _has_addresses(objects: Objects) -> bool:
    return any(isinstance(o, Node) and o.addresses for o in objects.values())
