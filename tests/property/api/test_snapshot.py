# SPDX-License-Identifier: Apache-2.0
"""Any objects come back from a snapshot as they were; any bytes are read or refused."""

from __future__ import annotations

import hashlib
import io
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_bpf.api import objects
from kubeproxy_bpf.api.decode import ApiObject, Kind
from kubeproxy_bpf.api.snapshot import Identity, Snapshot, SnapshotRefused, decode, encode
from tests.examples import bounded

# Few enough texts that objects share some, and numbers that have a place on the disk.
TEXTS = st.sampled_from(["", "a", "b", "ns", "näme", "\0", "🜁", "x" * 300]) | st.text(max_size=8)
NUMBERS = st.integers(-(2**63), 2**64 - 1)
TRAITS = st.builds(
    objects.EndpointTraits,
    *(st.booleans(),) * 3,
    st.none() | TEXTS,
    *(st.frozensets(TEXTS, max_size=3),) * 2,
)


def tuples(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(inner, max_size=2).map(tuple)


SERVICES = st.builds(
    objects.Service,
    *(TEXTS,) * 6,
    *(tuples(TEXTS),) * 2,
    tuples(st.builds(objects.ServicePort, TEXTS, TEXTS, NUMBERS, NUMBERS)),
    tuples(TEXTS),
    tuples(st.builds(objects.Ingress, TEXTS, TEXTS)),
    tuples(TEXTS),
    *(TEXTS,) * 3,
    *(NUMBERS,) * 2,
    st.none() | TEXTS,
    tuples(st.tuples(TEXTS, TEXTS)),
)
ENDPOINTS = tuples(st.tuples(st.binary(min_size=16, max_size=16), TRAITS))
SLICES = st.builds(
    lambda endpoints, *fields: objects.EndpointSlice(  # type: ignore[call-arg]
        *fields, tuple(a for a, _ in endpoints), tuple(t for _, t in endpoints)
    ),
    ENDPOINTS,
    *(TEXTS,) * 3,
    st.booleans(),
    TEXTS,
    tuples(st.builds(objects.SlicePort, TEXTS, TEXTS, NUMBERS)),
)
HOST_PORTS = tuples(st.builds(objects.HostPort, TEXTS, NUMBERS, NUMBERS, TEXTS))
PODS = st.builds(objects.Pod, *(TEXTS,) * 6, *(st.booleans(),) * 2, tuples(TEXTS), HOST_PORTS)
NODES = st.builds(
    objects.Node,
    *(TEXTS,) * 2,
    tuples(TEXTS),
    tuples(st.tuples(TEXTS, TEXTS)),
    st.booleans(),
    tuples(TEXTS),
)
FOUND = st.fixed_dictionaries(
    {
        Kind.SERVICE: tuples(SERVICES),
        Kind.ENDPOINT_SLICE: tuples(SLICES),
        Kind.NODE: tuples(NODES),
        Kind.POD: tuples(PODS),
        Kind.SERVICE_CIDR: tuples(st.builds(objects.ServiceCIDR, TEXTS, tuples(TEXTS))),
    }
)
OURS = Identity("node-a", "https://192.0.2.1:6443")


def types_of(value: Any) -> Any:
    """Tuples are equal whatever their classes, and 1 is True: this tells them apart."""
    if isinstance(value, tuple):
        return type(value), [types_of(part) for part in value]
    return type(value)


@bounded(30)
@given(FOUND, st.floats(allow_nan=False), TEXTS, TEXTS)
def test_what_was_written_is_read(
    found: dict[Kind, tuple[ApiObject, ...]], written: float, node: str, cluster: str
) -> None:
    """Whatever names, numbers and addresses they have, and whoever they are of."""
    raw = b"".join(encode(Identity(node, cluster), written, found))
    snapshot = decode(io.BytesIO(raw), len(raw), Identity(node, cluster))
    assert Snapshot(written, found) == snapshot
    assert all(types_of(found[kind]) == types_of(snapshot.objects[kind]) for kind in Kind)


@bounded(30)
@given(FOUND, st.data())
def test_what_is_spoiled_is_refused_or_harmless(
    found: dict[Kind, tuple[ApiObject, ...]], data: st.DataObject
) -> None:
    """Parts exchanged for any bytes, with a checksum that fits: nothing but a refusal comes of
    it, or objects of the right kinds."""
    raw = bytearray(b"".join(encode(OURS, 1.0, found)))
    begin = data.draw(st.integers(0, len(raw) - 33))
    raw[begin : begin + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=20))
    if data.draw(st.booleans()):
        raw[-32:] = hashlib.sha256(raw[:-32]).digest()
    try:
        snapshot = decode(io.BytesIO(raw), len(raw), OURS)
    except SnapshotRefused as refusal:
        assert refusal.reason and refusal.detail
    else:
        assert set(Kind) == set(snapshot.objects)


@bounded(100)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(raw: bytes) -> None:
    """Without an exception of another kind."""
    try:
        decode(io.BytesIO(raw), len(raw), OURS)
        raise AssertionError("it was read")
    except SnapshotRefused:
        pass
