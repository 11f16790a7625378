# SPDX-License-Identifier: Apache-2.0
"""Change of endpoints at a steady rate, over all Services of a bulk cluster but the first.

Mostly EndpointSlices with other endpoints, of other number; now and then an endpoint that
terminates, and a Service that goes or comes back. What was changed is known, so that ``restore``
leads back to the cluster of the beginning: whatever is in use then beyond that has leaked.
"""

from __future__ import annotations

import random
import threading
import time
from typing import Any, Callable

from kubeproxy_bpf.sandbox.apiserver import bulk
from tests.soak.api import Api

_SERVICES = f"/api/v1/namespaces/{bulk.NAMESPACE}/services"
_SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{bulk.NAMESPACE}/endpointslices"
_PODS = 50_000
"""Addresses that endpoints move among, besides those of the beginning."""
PROBE = 0
"""The Service that is left alone: its changes are measured."""

_EACH_UDP = 50
"""One of so many Services has datagrams too: when their backends go, sockets are looked through."""

Manifest = dict[str, Any]


def address(number: int) -> str:
    """One of the pods that were not there at the beginning."""
    return f"10.{200 + number // 65536}.{number // 256 % 256}.{number % 256}"


def slice_path(index: int) -> str:
    return f"{_SLICES}/{bulk.slice_name(index)}"


def slice_of(index: int, addresses: list[str], terminating: bool = False) -> Manifest:
    """An EndpointSlice of a bulk Service; with ``terminating`` the first of its pods goes."""
    endpoints = [
        {
            "addresses": [each],
            "conditions": {
                "ready": not (terminating and place == 0),
                "serving": True,
                "terminating": terminating and place == 0,
            },
            "nodeName": bulk.node_name(index + place),
        }
        for place, each in enumerate(addresses)
    ]
    labels = {"kubernetes.io/service-name": bulk.service_name(index)}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": bulk.slice_name(index),
            "namespace": bulk.NAMESPACE,
            "labels": labels,
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [
            {"name": "http", "protocol": "TCP", "port": bulk.TARGET_PORT},
            {"name": "dns", "protocol": "UDP", "port": 5353},
        ],
    }


def service_of(index: int) -> Manifest:
    ip = bulk.cluster_ip(index)
    ports = [{"name": "http", "protocol": "TCP", "port": bulk.PORT, "targetPort": bulk.TARGET_PORT}]
    if index % _EACH_UDP == 0 and index != PROBE:
        ports.append({"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 5353})
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": bulk.service_name(index), "namespace": bulk.NAMESPACE},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": ports},
    }


class Changes:
    """Changes the cluster in a thread of its own, from ``start`` to ``stop``."""

    def __init__(self, api: Api, shape: bulk.Shape, rate: float, seed: int) -> None:
        self._api = api
        self._shape = shape
        self._rate = rate
        self._random = random.Random(seed)
        self._changed: set[int] = set()
        self._absent: set[int] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="changes")
        self.made = 0
        self.seconds = 0.0
        self.error: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; raises what ended it before."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self.error is not None:
            raise self.error

    @property
    def rate(self) -> float:
        """Changes per second that were really made."""
        return self.made / self.seconds if self.seconds else 0.0

    def prepare(self) -> None:
        """The cluster of the beginning is the bulk cluster, with some UDP."""
        for index in range(_EACH_UDP, self._shape.services, _EACH_UDP):
            self._api.put(f"{_SERVICES}/{bulk.service_name(index)}", service_of(index))
            self._api.put(slice_path(index), slice_of(index, self._original(index)))

    def restore(self) -> None:
        """Back to the cluster of the beginning."""
        for index in sorted(self._absent):
            self._come(index)
        for index in sorted(self._changed):
            self._api.put(slice_path(index), slice_of(index, self._original(index)))
        self._changed.clear()

    def _original(self, index: int) -> list[str]:
        count = self._shape.endpoints
        return [bulk.endpoint_address(index, place, count) for place in range(count)]

    def _run(self) -> None:
        begun = due = time.monotonic()
        try:
            while not self._stopping.is_set():
                self._one()
                self.made += 1
                due += 1 / self._rate
                self.seconds = time.monotonic() - begun
                self._stopping.wait(max(0.0, due - time.monotonic()))
        except BaseException as error:
            self.error = error

    def _one(self) -> None:
        index = self._random.randrange(PROBE + 1, self._shape.services)
        if index in self._absent:
            self._come(index)
            return
        kinds: list[Callable[[int], None]] = [self._move, self._terminate, self._go]
        (kind,) = self._random.choices(kinds, (90, 8, 2))
        kind(index)

    def _move(self, index: int) -> None:
        count = self._random.randrange(2 * self._shape.endpoints + 1)
        pods = self._random.sample(range(_PODS), count)
        self._put(index, slice_of(index, [address(pod) for pod in pods]))

    def _terminate(self, index: int) -> None:
        self._put(index, slice_of(index, self._original(index), terminating=True))

    def _put(self, index: int, manifest: Manifest) -> None:
        self._changed.add(index)
        self._api.put(slice_path(index), manifest)

    def _go(self, index: int) -> None:
        self._api.delete(f"{_SERVICES}/{bulk.service_name(index)}")
        self._api.delete(slice_path(index))
        self._absent.add(index)

    def _come(self, index: int) -> None:
        self._api.post(_SERVICES, service_of(index))
        self._api.post(_SLICES, slice_of(index, self._original(index)))
        self._absent.discard(index)
