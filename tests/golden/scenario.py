# SPDX-License-Identifier: Apache-2.0
"""Scenarios: Kubernetes manifests in, a readable dump of the wanted state out.

A scenario is a stream of YAML documents, applied in order:

    about: one sentence, the rule that is shown   (first document; may hold ``config``)
    kind: Service ...                             a manifest, as kubectl would apply it
    delete: Service default/web                   an object goes
    addresses: {local: [..], node_port: [..]}     the node's own addresses
    node_ips: [..]                                those by which the cluster knows it
    expect: |                                     the whole state now, one sorted line per entry

The proxy runs on the node "node-a". Nothing is taken from the model but at ``expect``, so what lies
between two of them coalesces.
"""

from __future__ import annotations

import json
from typing import Any, Iterator, Mapping

import msgspec
import yaml

from kubeproxy_bpf.api.decode import Kind, decoder_of
from kubeproxy_bpf.api.objects import EndpointSlice, Node, ObjectKey, Pod, Service
from kubeproxy_bpf.model.addresses import format_address
from kubeproxy_bpf.model.cluster import ClusterModel, Step
from kubeproxy_bpf.model.facts import ModelConfig, NodeAddresses
from kubeproxy_bpf.model.types import (
    BackendSpec,
    Desired,
    Family,
    Prefix,
    Protocol,
    ServicePortId,
)
from kubeproxy_bpf.plan.records import BackendFlags, FrontendFlags, RecordFlags, VipFlags
from tests.fix_objects import NODE, ip

Document = Mapping[str, Any]


def parse_manifest(document: Document) -> Service | EndpointSlice | Node | Pod:
    """The object of a manifest, by the decoder that reads the API server's bytes."""
    raw = msgspec.Raw(json.dumps(document).encode())
    return decoder_of(Kind(document["kind"])).decode(raw).object


class Scenario:
    """A model, and the state that its changes add up to."""

    def __init__(self, config: ModelConfig = ModelConfig(NODE)) -> None:
        self.model = ClusterModel(config)
        self.model.mark_complete()
        self.services: dict[ServicePortId, Desired] = {}
        self.vips: dict[bytes, int] = {}

    @classmethod
    def from_header(cls, header: Document) -> Scenario:
        config = dict(header.get("config", {}))
        if "families" in config:
            config["families"] = tuple(Family[name.upper()] for name in config["families"])
        return cls(ModelConfig(**({"node_name": NODE} | config)))

    def apply(self, document: Document) -> None:
        if "delete" in document:
            kind, _, name = document["delete"].partition(" ")
            self.delete(kind, ObjectKey(*name.split("/")))
        elif "addresses" in document:
            sets = document["addresses"]
            local, node_port = (frozenset(map(ip, sets[k])) for k in ("local", "node_port"))
            self.model.set_node_addresses(NodeAddresses(local, node_port))
        elif "node_ips" in document:
            self.model.set_node_ips(map(ip, document["node_ips"]))
        else:
            self.put(parse_manifest(document))

    def put(self, value: Service | EndpointSlice | Node | Pod) -> None:
        if isinstance(value, Service):
            self.model.set_service(value)
        elif isinstance(value, EndpointSlice):
            self.model.set_slice(value)
        elif isinstance(value, Node):
            self.model.set_node(value)
        else:
            self.model.set_pod(value)

    def delete(self, kind: str, key: ObjectKey) -> None:
        {
            "Service": self.model.remove_service,
            "EndpointSlice": self.model.remove_slice,
            "Pod": self.model.remove_pod,
        }[kind](key)

    def take(self) -> Step:
        """Take the changes and add them up."""
        step = self.model.take()
        for port_id, desired in step.changes.services.items():
            if desired is None:
                del self.services[port_id]
            else:
                self.services[port_id] = desired
        for address, flags in step.changes.vips.items():
            if flags:
                self.vips[address] = flags
            else:
                del self.vips[address]
        return step

    def dump(self) -> str:
        """The state, one sorted line per entry."""
        lines = [f"vip {format_address(a)} {_names(VipFlags(f))}" for a, f in self.vips.items()]
        for port_id, desired in self.services.items():
            lines += _service_lines(port_id, desired)
        for check in self.model.health_checks():
            lines.append(
                f"health {'/'.join(check.service)} IPv{check.family} port {check.port} "
                f"local endpoints {check.local_endpoints}"
            )
        for problem in self.model.problems():
            name = "/".join(filter(None, (problem.namespace, problem.name)))
            what = "note" if problem.note else "problem"
            lines.append(f"{what} {problem.kind} {name} {problem.field}: {problem.message}")
        return "".join(f"{line}\n" for line in sorted(lines))


def _service_lines(port_id: ServicePortId, desired: Desired) -> Iterator[str]:
    windows = {
        "cluster": desired.backends[: desired.cluster_count],
        "local": desired.backends[desired.local_first :][: desired.local_count],
    }
    windows["no-set"] = tuple(b for b in desired.backends if b not in sum(windows.values(), ()))
    parts = [f"{name}=[{' '.join(map(_backend, w))}]" for name, w in windows.items() if w]
    if desired.affinity_timeout_s:
        parts.append(f"affinity={desired.affinity_timeout_s}s")
    if desired.source_ranges:
        parts.append(f"sources=[{' '.join(map(_prefix, desired.source_ranges))}]")
    yield " ".join(["service", str(port_id), *parts, _names(RecordFlags(desired.flags))])
    for spec in desired.frontends:
        where = f"{_host(spec.address)}:{spec.port}/{Protocol(spec.protocol).name}"
        flags = _names(FrontendFlags(spec.flags))
        yield f"frontend {where} {spec.kind.name} {flags} -> {port_id}"


def _prefix(prefix: Prefix) -> str:
    bits = prefix.bits - 96 if prefix.family == Family.IPV4 else prefix.bits
    return f"{format_address(prefix.address)}/{bits}"


def _backend(backend: BackendSpec) -> str:
    flags = _names(BackendFlags(backend.flags))
    return f"{_host(backend.address)}:{backend.port}{'' if flags == '-' else f'({flags})'}"


def _host(address: bytes) -> str:
    text = format_address(address)
    return f"[{text}]" if ":" in text else text


def _names(flags: BackendFlags | FrontendFlags | RecordFlags | VipFlags) -> str:
    return "+".join(str(flag.name) for flag in type(flags) if flag in flags) or "-"


def documents(text: str) -> list[Document]:
    return [document for document in yaml.safe_load_all(text) if document]
