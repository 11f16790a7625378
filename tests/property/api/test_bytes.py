# SPDX-License-Identifier: Apache-2.0
"""Bytes that no API server sends: the state stands, or is exactly what the bytes say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_bpf.api.decode import Kind, Malformed
from kubeproxy_bpf.api.lines import LONGEST, LineSplitter
from tests.examples import bounded
from tests.property.api_objects import Json, own_node, worlds
from tests.property.pipeline import Pipeline, encode

ODD = st.one_of(
    st.binary(max_size=6),
    st.sampled_from(
        [
            *(b"", b"null", b"NaN", b"Infinity", b"-", b"01", b"1e999", b"9" * 5000, b"1" * 400),
            *(b"{", b"}", b"[", b"]", b'"', b"\\", b"\\ud800", b"\\u0000", b"\n", b"\r\n", b","),
            *(b"[" * 20_000, b'{"a":' * 20_000, b"\xff", b"\xc0\x80", b"\xef\xbb\xbf", b"\0"),
            *(b'"metadata":{},', b'"name":"good-0",', b'"kind":"PodList",', b"x" * 100_000),
        ]
    ),
)


@st.composite
def damage(draw: st.DrawFn, content: bytes) -> bytes:
    """Some bytes replaced, cut out, put in or doubled, or the end cut off."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        until = draw(st.sampled_from([at, at, at + 1, at + 40, len(content)]))
        content = content[:at] + draw(ODD) + content[until:]
    return content


def versioned(documents: list[Json], first: int) -> list[Json]:
    return [
        {**document, "metadata": {**document["metadata"], "resourceVersion": str(first + number)}}
        for number, document in enumerate(documents)
    ]


def page(documents: list[Json], version: str = "2000") -> bytes:
    head = {"kind": "ServiceList", "metadata": {"resourceVersion": version}}
    return encode({**head, "items": versioned(documents, 1500)})


def names(documents: Any) -> set[Any]:
    """The oracle: names as another reader of JSON has them."""
    return {item["metadata"]["name"] for item in documents}


@bounded(80)
@given(worlds(), st.data())
def test_a_damaged_list_is_refused_or_means_what_it_says(world: list[Json], data: Any) -> None:
    """Malformed and nothing changes; or each object of it is known, and no other stays."""
    pipeline = Pipeline()
    pipeline.start([own_node(), *world])
    maps = pipeline.maps()
    good = [part for part in world if part["kind"] == "Service"]
    body = data.draw(damage(page(good)))
    try:
        pipeline.page(Kind.SERVICE, body)
    except Malformed:
        pipeline.sync()
        assert pipeline.maps() == maps
        return
    pipeline.sync()
    known = {key.name for key in pipeline.store.objects(Kind.SERVICE)}
    try:
        listed = json.loads(body)["items"] or ()
        said = names(listed)
    except (ValueError, LookupError, TypeError):
        return  # the other reader is stricter, or an object without a name
    assert known <= {str(name) for name in said} | names(good)
    if not pipeline.said:
        assert known <= said


@bounded(80)
@given(worlds(), st.data())
def test_a_damaged_watch_loses_nothing(world: list[Json], data: Any) -> None:
    """In pieces of any size, with damage anywhere: the next watch brings what was missed."""
    pipeline = Pipeline()
    pipeline.start([own_node()])
    lines = [encode({"type": "ADDED", "object": each}) for each in versioned(world, 3000)]
    stream = data.draw(damage(b"".join(line + b"\n" for line in lines)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    ends = [*cuts, len(stream)]
    pieces = [stream[start:end] for start, end in zip([0, *cuts], ends)]
    for kind in (Kind.SERVICE, Kind.ENDPOINT_SLICE):
        pipeline.lines(kind, *pieces)
        pipeline.sync()
    for kind in (Kind.SERVICE, Kind.ENDPOINT_SLICE):
        pipeline.version = max(pipeline.version, 10_000)
        pipeline.list(kind, [part for part in world if part["kind"] == kind.value])
    pipeline.sync()
    expected = Pipeline()
    expected.start([own_node(), *world])
    assert pipeline.programmed() == expected.programmed()


@bounded(60)
@given(worlds(), st.data())
def test_pieces_are_no_events(world: list[Json], data: Any) -> None:
    """However a watch is cut into pieces, it says the same."""
    good = [part for part in world if part["kind"] == "Service"]
    lines = [encode({"type": "ADDED", "object": each}) for each in versioned(good, 3000)]
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=30)))
    splitter = LineSplitter()
    found = [
        line
        for start, end in zip([0, *cuts], [*cuts, len(stream)])
        for line in splitter.feed(stream[start:end])
    ]
    assert found == lines and not splitter.unfinished


@pytest.mark.parametrize(
    "piece", [b"x" * (1 << 20), b'{"type":"' * (1 << 17), b"\\u0000" * 200_000]
)
def test_a_line_without_an_end_is_given_up(piece: bytes) -> None:
    """A hundred megabytes are refused after a third of them, and are not kept."""
    splitter = LineSplitter()
    with pytest.raises(Malformed, match="a line of more than"):
        for _ in range((100 << 20) // len(piece)):
            splitter.feed(piece)
    assert len(splitter._rest) <= LONGEST + len(piece)


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"null", b"[]", b"{}", b'"x"', b"1", b"<html>", b"\x1f\x8b\x08\0"),
        b'{"kind":"Status","code":200}',
        b'{"kind":"%sList","metadata":{"resourceVersion":"9"}}',
        b'{"kind":"%sList","metadata":{},"items":[]}',
        b'{"kind":"%sList","metadata":{"resourceVersion":""},"items":[]}',
        b'{"kind":"%sList","metadata":{"resourceVersion":9},"items":[]}',
        b'{"kind":"%sList","metadata":{"resourceVersion":"9"},"items":{}}',
        b'{"kind":"%sList","metadata":{"resourceVersion":"9"},"items":[]',
        b'{"kind":"%sList","metadata":{"resourceVersion":"9"},"items":[]}{}',
        b'{"kind":"PersistentVolumeList","metadata":{"resourceVersion":"9"},"items":[]}',
    ],
)
def test_what_merely_lacks_items_is_no_empty_list(kind: Kind, body: bytes) -> None:
    """Everything that is missing from a list is deleted, so a list must be one."""
    pipeline = Pipeline()
    pipeline.start([own_node()])
    with pytest.raises(Malformed):
        pipeline.page(kind, body.replace(b"%s", kind.value.encode()))
