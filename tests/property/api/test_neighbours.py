# SPDX-License-Identifier: Apache-2.0
"""A bad object changes nothing for the good ones: not a byte, in no order of events."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_bpf.api.decode import DecodeError, Kind
from kubeproxy_bpf.model.problems import MOST
from kubeproxy_bpf.sandbox.apiserver import resources
from kubeproxy_bpf.sandbox.apiserver.validation import problems_of
from tests.examples import bounded
from tests.property.api_objects import Json, own_node, spoiled, worlds
from tests.property.hostile_objects import HOSTILE, crowds, hostile, rival_pods
from tests.property.pipeline import Pipeline

RESOURCES = {"Service": resources.SERVICES, "EndpointSlice": resources.SLICES}
NONSENSE = [b"\n", b"null\n", b'{"type":"ADDED"}\n', b"\xff\xfe\n", b"[" * 2000 + b"\n", b'{"typ']
LONGEST_COMPLAINT = 300

Step = tuple[str, Any]


def alone(world: list[Json]) -> Pipeline:
    """The good ones and the node."""
    pipeline = Pipeline()
    pipeline.start([own_node(), *world])
    return pipeline


@bounded(30)
@given(worlds())
def test_the_valid_objects_are_valid(world: list[Json]) -> None:
    """The embedded API server would store them as they are, and nobody complains of them."""
    for part in world:
        assert not problems_of(RESOURCES[part["kind"]], part, None)
    pipeline = alone(world)
    assert not pipeline.said
    assert {part["metadata"]["name"] for part in world if part["kind"] == "Service"} == {
        port.name for port in pipeline.programmed()
    }


@bounded(100)
@given(worlds(), crowds, st.booleans())
def test_hostile_objects_change_nothing_for_others(
    world: list[Json], bad: list[Json], listed: bool
) -> None:
    """Listed with them or added later; and once they are gone the maps mean what they did."""
    before = alone(world)
    expected = before.programmed()
    pipeline = Pipeline()
    pipeline.start([own_node(), *world, *(bad if listed else ())])
    for document in bad:
        pipeline.event("MODIFIED", document)
        pipeline.sync()
        assert pipeline.of("default") == expected
    for document in bad:
        pipeline.event("DELETED", document)
    pipeline.sync()
    assert pipeline.programmed() == expected
    assert pipeline.fake.vips == before.fake.vips


@bounded(60)
@given(worlds(), rival_pods())
def test_host_ports_take_nothing_from_others(world: list[Json], pods: list[Json]) -> None:
    """Whatever host IPs a Pod names: cluster IPs, external addresses and node ports stay."""
    pipeline = alone(world)
    expected = pipeline.programmed()
    for pod in pods:
        pipeline.event("ADDED", pod)
    pipeline.sync()
    assert pipeline.of("default") == expected


@bounded(120)
@given(worlds(), spoiled(st.one_of(hostile, hostile, st.builds(own_node))))
def test_spoiled_objects_change_nothing_for_others(world: list[Json], bad: Json) -> None:
    """Whatever stands in whatever field: defined, or complaints that name object and field."""
    pipeline = alone(world)
    expected, maps = pipeline.programmed(), pipeline.maps()
    pipeline.event("ADDED", bad)
    pipeline.sync()
    assert pipeline.of("default") == expected
    refused = [each for each in pipeline.said if isinstance(each, DecodeError)]
    assert len(pipeline.said) <= 2 * (MOST + 1)
    for each in pipeline.said:
        name = each.key.name if isinstance(each, DecodeError) and each.key else bad_name(bad)
        assert name == bad_name(bad) and each.field and len(each.message) < LONGEST_COMPLAINT
    if refused and not pipeline.store.objects(Kind(bad["kind"])).get(refused[0].key):
        assert pipeline.maps() == maps


def bad_name(document: Json) -> str:
    return str(document["metadata"]["name"])


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Json], list[Step]]:
    """What an API server does in the course of time."""
    world = draw(worlds())
    good = st.sampled_from(world)
    steps = st.one_of(
        st.tuples(st.just("put"), st.one_of(good, spoiled(good, 1), hostile, spoiled(hostile, 2))),
        st.tuples(st.just("delete"), st.one_of(good, hostile)),
        st.tuples(st.just("nonsense"), st.sampled_from(NONSENSE)),
        st.tuples(st.just("list"), st.sampled_from(Kind)),
        st.tuples(st.just("sync"), st.none()),
    )
    return world, draw(st.lists(steps, max_size=12))


class Server:
    """Keeps what there is, and tells the pipeline."""

    def __init__(self, world: list[Json]) -> None:
        self.pipeline = alone(world)
        self.there = {key_of(document): document for document in [own_node(), *world]}

    def put(self, document: Json) -> None:
        self.there[key_of(document)] = document
        self.pipeline.event("MODIFIED", document)

    def delete(self, document: Json) -> None:
        self.there.pop(key_of(document), None)
        self.pipeline.event("DELETED", document)

    def nonsense(self, line: bytes) -> None:
        for kind in Kind:
            self.pipeline.lines(kind, line)

    def list(self, kind: Kind) -> None:
        same = [document for document in self.there.values() if document["kind"] == kind.value]
        self.pipeline.list(kind, same)

    def sync(self, _: None = None) -> None:
        self.pipeline.sync()


def key_of(document: Json) -> tuple[str, str, str]:
    meta = document["metadata"]
    return document["kind"], meta.get("namespace", ""), meta["name"]


@bounded(100)
@given(histories())
def test_what_happened_on_the_way_leaves_no_trace(history: tuple[list[Json], list[Step]]) -> None:
    """Put, spoiled, deleted, listed again, nonsense in between: in the end the good ones alone."""
    world, steps = history
    server = Server(world)
    for what, subject in steps:
        getattr(server, what)(subject)
    for document in list(server.there.values()):
        if document["metadata"].get("namespace") == HOSTILE or document["kind"] == "ServiceCIDR":
            server.delete(document)
    for document in world:
        server.put(copy.deepcopy(document))
    server.sync()
    expected = alone(world)
    assert server.pipeline.programmed() == expected.programmed()
    assert server.pipeline.fake.vips == expected.fake.vips


@pytest.mark.parametrize("listed", [True, False])
@bounded(40)
@given(world=worlds(), data=st.data())
def test_what_cannot_be_read_is_not_deleted(listed: bool, world: list[Json], data: Any) -> None:
    """A good object whose next version is malformed, in a list or an event, stays byte for byte."""
    pipeline = alone(world)
    maps = pipeline.maps()
    victim = data.draw(st.sampled_from(world))
    body = "spec" if victim["kind"] == "Service" else "endpoints"
    broken = {**victim, body: data.draw(st.sampled_from([7, "x", [7], True]))}
    kind = Kind(victim["kind"])
    if listed:
        rest = [part for part in world if part["kind"] == kind.value and part is not victim]
        pipeline.list(kind, [broken, *rest])
    else:
        pipeline.event("MODIFIED", broken)
    pipeline.sync()
    assert pipeline.maps() == maps
    (complaint,) = pipeline.said
    assert isinstance(complaint, DecodeError) and complaint.field.startswith(f"$.{body}")
