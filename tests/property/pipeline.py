# SPDX-License-Identifier: Apache-2.0
"""All that lies between the bytes of an API server and the maps, joined without a network.

Lists and events go in as bytes; the decoder, the intake, the store, the feed, the model and the
planner are the real ones, the dataplane is the fake. ``said`` holds what a log would have named.
"""

from __future__ import annotations

import json
from typing import Any, Iterable, Mapping

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.api.decode import DecodeError, Kind, Malformed, parse_page
from kubeproxy_bpf.api.intake import HistoryReplaced, Intake
from kubeproxy_bpf.api.lines import LineSplitter
from kubeproxy_bpf.api.source import node_store, resources_for
from kubeproxy_bpf.api.status import StatusError
from kubeproxy_bpf.config.load import load
from kubeproxy_bpf.dataplane.fake import FakeDataplane
from kubeproxy_bpf.feed import Feed
from kubeproxy_bpf.model.cluster import ClusterModel
from kubeproxy_bpf.model.facts import ModelConfig
from kubeproxy_bpf.model.types import Problem, ServicePortId
from kubeproxy_bpf.node.devices import LocalAddress
from kubeproxy_bpf.plan.planner import NOTHING
from kubeproxy_bpf.plan.records import FrontendKey
from kubeproxy_bpf.plan.writes import Capacity
from tests.fix_objects import NODE
from tests.plan_objects import Bench
from tests.property.api_objects import NODE_IP, NODE_IP6, Json

CONFIG = load([f"--hostname-override={NODE}"])
CAPACITY = Capacity(4096, 4096, 2048, 4096, 16384, 8192, 1024)
LOCAL = frozenset(
    LocalAddress(address, device)
    for text, device in ((NODE_IP, "eth0"), (NODE_IP6, "eth0"), ("127.0.0.1", "lo"))
    if (address := parse_address(text)) is not None
)
CUT = (Malformed, StatusError, HistoryReplaced)
"""What ends a stream, and nothing else."""

Entry = tuple[Any, ...]


def encode(document: Any, escaped: bool = True) -> bytes:
    text = json.dumps(document, ensure_ascii=escaped, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


class Pipeline:
    """A proxy without sockets and kernel. Versions are counted by it, one for each event."""

    def __init__(self, capacity: Capacity = CAPACITY) -> None:
        self.said: list[DecodeError | Problem] = []
        self.store = node_store()
        self.model = ClusterModel(ModelConfig(NODE))
        self.feed = Feed(
            self.model,
            CONFIG,
            wake=lambda: None,
            node_seen=lambda node: None,
            unreadable=lambda: self.store.unreadable,
            uplink=lambda device: device != "lo",
        )
        self.store.subscribe(self.feed)
        self.feed.addresses_changed(LOCAL)
        self.bench = Bench(capacity)
        self.intakes = {
            resource.kind: Intake(resource, self.store.sink(resource.kind), self.said.append)
            for resource in resources_for(NODE)
        }
        self.version = 1000

    @property
    def fake(self) -> FakeDataplane:
        return self.bench.fake

    # ---- what an API server says ----

    def start(self, documents: Iterable[Json]) -> None:
        """List everything, and program it."""
        documents = list(documents)
        for kind in Kind:
            self.list(kind, [d for d in documents if d.get("kind") == kind.value])
        self.sync()

    def list(self, kind: Kind, documents: Iterable[Json]) -> None:
        items = b",".join(encode(self._versioned(document)) for document in documents)
        head = {"kind": f"{kind}List", "metadata": {"resourceVersion": str(self.version)}}
        body = encode(head)[:-1] + b',"items":[' + items + b"]}"
        self.page(kind, body)

    def page(self, kind: Kind, body: bytes) -> None:
        """A whole list as bytes; nothing of it counts when it cannot be read."""
        page = parse_page(body, kind)
        intake = self.intakes[kind]
        intake.begin()
        for raw in page.items:
            intake.add(raw)
        intake.commit(page.version)

    def event(self, type: str, document: Json) -> None:
        """A change of the kind that the document names."""
        line = encode({"type": type, "object": self._versioned(document)})
        self.lines(Kind(document["kind"]), line + b"\n")

    def lines(self, kind: Kind, *chunks: bytes) -> None:
        """Pieces of a watch; the first line that is none ends it."""
        splitter = LineSplitter()
        try:
            for chunk in chunks:
                for line in splitter.feed(chunk):
                    self.intakes[kind].event(line)
        except CUT:
            pass

    def _versioned(self, document: Json) -> Json:
        self.version += 1
        meta = document.get("metadata")
        if not isinstance(meta, dict):
            return document
        return {**document, "metadata": {"resourceVersion": str(self.version), **meta}}

    # ---- what becomes of it ----

    def sync(self) -> None:
        step = self.model.take()
        self.said += step.problems
        self.bench.sync(step.changes)
        # No flow has ever been, so none keeps an address.
        self.bench.planner.forget(self.bench.planner.lingering)
        self.bench.sync(NOTHING)

    def programmed(self) -> dict[ServicePortId, Entry]:
        """What the maps say of each service port: all bytes but the numbers of entries."""
        owners = self.bench.planner.owners
        found: dict[ServicePortId, list[Entry]] = {}
        for key, value in sorted(self.fake.frontends.items()):
            entry = (key, value.kind, value.flags, self.fake.vips.get(key.address))
            found.setdefault(owners[value.service], []).append(entry)
        return {
            port: (tuple(found.get(port, ())), *self._behind(index))
            for index, port in owners.items()
        }

    def _behind(self, index: int) -> Entry:
        fake = self.fake
        record = fake.records[fake.services[index].record]
        ids = fake.slots[record.slots : record.slots + record.members]
        backends = [fake.backends[number]._replace(generation=0) for number in ids]
        ranges = sorted(key[::2] for key in fake.source_ranges if key.service == index)
        return record._replace(slots=0, stats=0), tuple(backends), tuple(ranges)

    def of(self, namespace: str) -> dict[ServicePortId, Entry]:
        """What is programmed for the Services of a namespace."""
        return {p: entry for p, entry in self.programmed().items() if p.namespace == namespace}

    def maps(self) -> Mapping[str, Any]:
        """All of the maps, as they lie there."""
        return self.fake.snapshot()._asdict()

    def frontends(self, namespace: str) -> set[FrontendKey]:
        owners = self.bench.planner.owners
        return {
            key
            for key, value in self.fake.frontends.items()
            if owners[value.service].namespace == namespace
        }
