# SPDX-License-Identifier: Apache-2.0
"""A large cluster of realistic objects, rendered as bytes straight into the store.

Objects have what those of a real cluster have (owner, managedFields, targetRef, zone, hints on half
of them), since the cost of reading is in the bytes. ``make bench`` starts a server that is filled
so, and the functions tell it what to expect where.
"""

from __future__ import annotations

import ipaddress
from functools import partial
from typing import NamedTuple

from .resources import SERVICES, SLICES, Key
from .status import Json
from .store import Store

NAMESPACE = "bench"
PORT, TARGET_PORT = 80, 8080
_NODES, _ZONES = 100, 3
_CREATED = b"2026-01-01T00:00:00Z"


class Shape(NamedTuple):
    services: int
    endpoints: int
    """Per Service, in one EndpointSlice."""

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read ``10000x10``."""
        services, _, endpoints = text.partition("x")
        return cls(int(services), int(endpoints))


def fill(store: Store, shape: Shape) -> None:
    """Put the cluster into the store."""
    for index in range(_NODES):
        store.put(_node(index))
    store.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    for index in range(shape.services):
        key = Key(NAMESPACE, service_name(index))
        store.write_raw(SERVICES, key, partial(_service, index))
    for index in range(shape.services):
        key = Key(NAMESPACE, slice_name(index))
        store.write_raw(SLICES, key, partial(_slice, index, shape.endpoints))


def service_name(index: int) -> str:
    return f"service-{index:05d}"


def slice_name(index: int) -> str:
    return f"{service_name(index)}-x7k2p"


def node_name(index: int) -> str:
    return f"node-{index % _NODES:03d}"


def cluster_ip(index: int) -> str:
    return str(ipaddress.IPv4Address(0x0A60_0100 + index))


def endpoint_address(index: int, endpoint: int, per_service: int) -> str:
    """Address of one endpoint of the Service with an index."""
    return str(ipaddress.IPv4Address(0x0A80_0100 + index * per_service + endpoint))


def _zone(index: int) -> str:
    return f"zone-{index % _NODES % _ZONES}"


def _node(index: int) -> Json:
    address = str(ipaddress.IPv4Address(0xAC10_0001 + index))
    labels = {
        "kubernetes.io/hostname": node_name(index),
        "topology.kubernetes.io/zone": _zone(index),
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node_name(index), "labels": labels},
        "spec": {},
        "status": {
            "addresses": [{"type": "InternalIP", "address": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def _uid(kind: int, index: int) -> bytes:
    return b"%08x-5a4f-4f0e-9d3c-%012x" % (kind, index)


_SERVICE_FIELDS = (
    b'[{"manager":"kubectl-client-side-apply","operation":"Update","apiVersion":"v1","time":"%b",'
    b'"fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:annotations":{".":{},'
    b'"f:kubectl.kubernetes.io/last-applied-configuration":{}},"f:labels":{".":{},"f:app":{},'
    b'"f:team":{}}},"f:spec":{"f:internalTrafficPolicy":{},"f:ports":{".":{},'
    b'"k:{\\"port\\":80,\\"protocol\\":\\"TCP\\"}":{".":{},"f:name":{},"f:port":{},"f:protocol":{},'
    b'"f:targetPort":{}}},"f:selector":{},"f:sessionAffinity":{},"f:type":{}}}}]' % _CREATED
)
_SERVICE = (
    b'{"apiVersion":"v1","kind":"Service","metadata":{"name":"%(name)b","namespace":"bench",'
    b'"uid":"%(uid)b","resourceVersion":"%(version)d","creationTimestamp":"%(created)b",'
    b'"labels":{"app":"%(name)b","team":"platform"},"annotations":{'
    b'"kubectl.kubernetes.io/last-applied-configuration":"{\\"apiVersion\\":\\"v1\\",\\"kind\\":'
    b'\\"Service\\",\\"metadata\\":{\\"name\\":\\"%(name)b\\",\\"namespace\\":\\"bench\\"},'
    b'\\"spec\\":'
    b'{\\"ports\\":[{\\"name\\":\\"http\\",\\"port\\":80,\\"targetPort\\":8080}]}}\\n"},'
    b'"managedFields":%(fields)b},"spec":{"ports":[{"name":"http","protocol":"TCP","port":80,'
    b'"targetPort":8080}],"selector":{"app":"%(name)b"},"clusterIP":"%(ip)b","clusterIPs":'
    b'["%(ip)b"],"type":"ClusterIP","sessionAffinity":"None","ipFamilies":["IPv4"],'
    b'"ipFamilyPolicy":"SingleStack","internalTrafficPolicy":"Cluster"},'
    b'"status":{"loadBalancer":{}}}'
)


def _service(index: int, version: int) -> bytes:
    return _SERVICE % {
        b"name": service_name(index).encode(),
        b"uid": _uid(1, index),
        b"version": version,
        b"created": _CREATED,
        b"fields": _SERVICE_FIELDS,
        b"ip": cluster_ip(index).encode(),
    }


_SLICE_FIELDS = (
    b'[{"manager":"kube-controller-manager","operation":"Update","apiVersion":'
    b'"discovery.k8s.io/v1","time":"%b","fieldsType":"FieldsV1","fieldsV1":{"f:addressType":{},'
    b'"f:endpoints":{},"f:metadata":{"f:annotations":{".":{},'
    b'"f:endpoints.kubernetes.io/last-change-trigger-time":{}},"f:generateName":{},"f:labels":'
    b'{".":{},"f:app":{},"f:endpointslice.kubernetes.io/managed-by":{},'
    b'"f:kubernetes.io/service-name":{},"f:team":{}},"f:ownerReferences":{".":{},'
    b'"k:{\\"uid\\":\\"00000001-5a4f-4f0e-9d3c-000000000000\\"}":{}}},"f:ports":{}}}]' % _CREATED
)
_SLICE = (
    b'{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice",'
    b'"metadata":{"name":"%(name)b-x7k2p",'
    b'"generateName":"%(name)b-","namespace":"bench","uid":"%(uid)b",'
    b'"resourceVersion":"%(version)d",'
    b'"generation":3,"creationTimestamp":"%(created)b","labels":{"app":"%(name)b",'
    b'"endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io",'
    b'"kubernetes.io/service-name":"%(name)b","team":"platform"},"annotations":'
    b'{"endpoints.kubernetes.io/last-change-trigger-time":"%(created)b"},"ownerReferences":'
    b'[{"apiVersion":"v1","kind":"Service","name":"%(name)b","uid":"%(owner)b","controller":true,'
    b'"blockOwnerDeletion":true}],"managedFields":%(fields)b},"addressType":"IPv4","endpoints":['
    b'%(endpoints)b],"ports":[{"name":"http","protocol":"TCP","port":8080},'
    b'{"name":"metrics","protocol":"TCP","port":9090}]}'
)
_ENDPOINT = (
    b'{"addresses":["%(ip)b"],"conditions":{"ready":true,"serving":true,"terminating":false},'
    b'%(hints)b"nodeName":"%(node)b","targetRef":{"kind":"Pod","namespace":"bench",'
    b'"name":"%(name)b-6d5f7c9b8d-%(number)05d","uid":"%(uid)b"},"zone":"%(zone)b"}'
)


def _slice(index: int, count: int, version: int) -> bytes:
    name = service_name(index).encode()
    endpoints = b",".join(_endpoint(index, number, count, name) for number in range(count))
    return _SLICE % {
        b"name": name,
        b"uid": _uid(2, index),
        b"owner": _uid(1, index),
        b"version": version,
        b"created": _CREATED,
        b"fields": _SLICE_FIELDS,
        b"endpoints": endpoints,
    }


def _endpoint(index: int, number: int, count: int, name: bytes) -> bytes:
    node = index * count + number
    zone = _zone(node).encode()
    return _ENDPOINT % {
        b"ip": endpoint_address(index, number, count).encode(),
        b"hints": b'"hints":{"forZones":[{"name":"%b"}]},' % zone if index % 2 else b"",
        b"node": node_name(node).encode(),
        b"zone": zone,
        b"name": name,
        b"number": number,
        b"uid": _uid(3, node),
    }
