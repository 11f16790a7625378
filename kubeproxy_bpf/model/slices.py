# SPDX-License-Identifier: Apache-2.0
"""EndpointSlices by the Service that they belong to [A5-A7, A12].

Slices are kept whether or not their Service exists yet. The API server's own Service keeps its last
known endpoints rather than none: an API server that restarts removes its address, and the proxy
would cut the very way by which it learns of the next one. What an earlier process knew counts as
known. Called by ``cluster``.
"""

from __future__ import annotations

from typing import Iterable, Iterator

from kubeproxy_bpf.api.objects import EndpointSlice, ObjectKey
from kubeproxy_bpf.model.endpoints import counts

API_SERVER = ObjectKey("default", "kubernetes")


class SliceIndex:
    """Slices by Service, sorted by name so that the order of events leaves no trace."""

    def __init__(self) -> None:
        self._by_service: dict[ObjectKey, tuple[EndpointSlice, ...]] = {}
        self._service_of: dict[ObjectKey, ObjectKey] = {}
        self._last_api_server: dict[str, tuple[EndpointSlice, ...]] = {}

    def __iter__(self) -> Iterator[tuple[ObjectKey, tuple[EndpointSlice, ...]]]:
        return iter(self._by_service.items())

    def of(self, service: ObjectKey) -> tuple[EndpointSlice, ...]:
        slices = self._by_service.get(service, ())
        return self._with_last_known(slices) if service == API_SERVER else slices

    def put(self, endpoint_slice: EndpointSlice) -> set[ObjectKey]:
        """Take in a slice; return the Services concerned, none when it is known just so."""
        key = endpoint_slice.key
        if not counts(endpoint_slice):
            return self.remove(key)
        service = ObjectKey(endpoint_slice.namespace, endpoint_slice.service)
        if endpoint_slice in self._by_service.get(service, ()):
            return set()
        concerned = {service}
        before = self._service_of.get(key)
        if before is not None:
            self._drop(before, endpoint_slice.name)
            concerned.add(before)
        self._service_of[key] = service
        slices = (*self._by_service.get(service, ()), endpoint_slice)
        if len(slices) > 1:
            slices = tuple(sorted(slices, key=_name))
        self._by_service[service] = slices
        if service == API_SERVER:
            self._remember(slices)
        return concerned

    def remember(self, slices: Iterable[EndpointSlice]) -> bool:
        """Take in what was last known of the API server's Service, where nothing is known since;
        return whether that is news."""
        before = dict(self._last_api_server)
        self._remember(tuple(sorted(filter(counts, slices), key=_name)))
        self._last_api_server |= before
        return self._last_api_server != before

    def remove(self, key: ObjectKey) -> set[ObjectKey]:
        """Forget a slice; return the Service concerned, if it was known."""
        service = self._service_of.pop(key, None)
        if service is None:
            return set()
        self._drop(service, key.name)
        return {service}

    def _drop(self, service: ObjectKey, name: str) -> None:
        rest = tuple(s for s in self._by_service[service] if s.name != name)
        if rest:
            self._by_service[service] = rest
        else:
            del self._by_service[service]

    def _remember(self, slices: tuple[EndpointSlice, ...]) -> None:
        for address_type in ("IPv4", "IPv6"):
            of_type = tuple(s for s in slices if s.address_type == address_type)
            if _usable(of_type):
                self._last_api_server[address_type] = of_type

    def _with_last_known(self, slices: tuple[EndpointSlice, ...]) -> tuple[EndpointSlice, ...]:
        result: tuple[EndpointSlice, ...] = ()
        for address_type in ("IPv4", "IPv6"):
            of_type = tuple(s for s in slices if s.address_type == address_type)
            known = _usable(of_type)
            result += of_type if known else self._last_api_server.get(address_type, ())
        return result


def _name(endpoint_slice: EndpointSlice) -> str:
    return endpoint_slice.name


def _usable(slices: tuple[EndpointSlice, ...]) -> bool:
    """Whether some endpoint could get new flows [C6]."""
    return any(
        traits.ready or (traits.serving and traits.terminating)
        for endpoint_slice in slices
        if endpoint_slice.ports
        for traits in endpoint_slice.traits
    )
