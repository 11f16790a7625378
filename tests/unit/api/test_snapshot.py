# SPDX-License-Identifier: Apache-2.0
"""What a snapshot holds, and that anything that is not exactly one is refused with its reason."""

from __future__ import annotations

import hashlib
import io
import math
import struct
import zlib
from typing import Callable

import msgspec
import pytest

from kubeproxy_bpf.api import snapshot as format_
from kubeproxy_bpf.api.decode import ApiObject, Kind
from kubeproxy_bpf.api.objects import HostPort, Ingress, ServiceCIDR, ServicePort
from kubeproxy_bpf.api.snapshot import Identity, Snapshot, SnapshotRefused, decode, encode
from tests.fix_objects import draining, endpoint_slice, node, pod, service, traits

OURS = Identity("node-a", "https://192.0.2.1:6443")
OBJECTS: dict[Kind, tuple[ApiObject, ...]] = {
    Kind.SERVICE: (service(), service(name="other", ports=(ServicePort("", "UDP", 53, 30053),))),
    Kind.ENDPOINT_SLICE: (
        endpoint_slice({"10.0.0.1": traits(), "10.0.0.2": draining()}),
        endpoint_slice({"10.0.0.3": traits(hint_zones=frozenset({"a", "b"}))}, name="web-2"),
        endpoint_slice({"10.0.0.4": traits()}, name="web-3"),
    ),
    Kind.NODE: (node(addresses=(("InternalIP", "192.0.2.11"),)),),
    Kind.POD: (pod(HostPort("", 8080, 80, "TCP")),),
    Kind.SERVICE_CIDR: (ServiceCIDR("kubernetes", ("10.96.0.0/16",)),),
}


def written(identity: Identity = OURS) -> bytes:
    return b"".join(encode(identity, 1700000000.5, OBJECTS))


def read(raw: bytes) -> Snapshot:
    return decode(io.BytesIO(raw), len(raw), OURS)


def refusal(raw: bytes) -> SnapshotRefused:
    with pytest.raises(SnapshotRefused) as caught:
        read(raw)
    return caught.value


def signed(raw: bytes) -> bytes:
    """With a checksum that fits, in place of the one that it had."""
    return raw[:-32] + hashlib.sha256(raw[:-32]).digest()


def with_body(body: bytes) -> bytes:
    """A snapshot with a good header, this body, and a checksum that fits."""
    raw = written()
    (length,) = struct.unpack_from(">I", raw, 12)
    return signed(raw[: 16 + length] + body + bytes(32))


def with_frames(*frames: tuple[int, object]) -> bytes:
    packed = ((number, msgspec.msgpack.encode(content)) for number, content in frames)
    return with_body(zlib.compress(b"".join(struct.pack(">IB", len(p), n) + p for n, p in packed)))


def test_what_was_written_is_read() -> None:
    """Objects of all kinds come back as they were, with the time at which they were true."""
    assert Snapshot(1700000000.5, OBJECTS) == read(written())


def test_the_time_of_a_change_is_not_kept() -> None:
    """It would count as the latency of a process that was not there."""
    late = endpoint_slice({"10.0.0.1": traits()}, triggered=5.0)
    raw = b"".join(encode(OURS, 1.0, {Kind.ENDPOINT_SLICE: (late,)}))
    (found,) = read(raw).objects[Kind.ENDPOINT_SLICE]
    assert late._replace(triggered=0.0) == found


def test_equal_parts_of_objects_are_one_in_memory() -> None:
    """Traits, ports and names repeat in a cluster a hundred thousand times."""
    services = read(written()).objects[Kind.SERVICE]
    slices = read(written()).objects[Kind.ENDPOINT_SLICE]
    assert services[0].namespace is services[1].namespace  # type: ignore[union-attr]
    assert slices[0].traits[0] is slices[2].traits[0]  # type: ignore[union-attr]
    assert slices[0].ports is slices[1].ports  # type: ignore[union-attr]


def test_equal_parts_of_different_kinds_stay_what_they_are() -> None:
    """An annotation and an ingress may say the same; only one of them has an address."""
    said = ("kubeproxy-bpf.io/algorithm", "VIP")
    found = (service(annotations=(said,)), service(name="other", ingress=(Ingress(*said),)))
    raw = b"".join(encode(OURS, 1.0, {Kind.SERVICE: found}))
    plain, named = read(raw).objects[Kind.SERVICE]
    assert tuple is type(plain.annotations[0])  # type: ignore[union-attr]
    assert Ingress is type(named.ingress[0])  # type: ignore[union-attr]


def test_what_has_no_bytes_is_left_out_alone() -> None:
    """A port beyond 64 bits serves nobody; the other Services are written all the same."""
    huge = service(name="huge", ports=(ServicePort("", "TCP", 10**30, 0),))
    raw = b"".join(encode(OURS, 1.0, {Kind.SERVICE: (huge, service())}))
    assert (service(),) == read(raw).objects[Kind.SERVICE]


def test_a_snapshot_is_never_whole_in_memory() -> None:
    """It is written in pieces, each of which is a small part of many objects."""
    many = tuple(
        service(name=f"s-{n}", uid=hashlib.sha256(b"%d" % n).hexdigest()) for n in range(5000)
    )
    pieces = [len(piece) for piece in encode(OURS, 1.0, {Kind.SERVICE: many})]
    assert max(pieces) < sum(pieces) / 2


@pytest.mark.parametrize("length", [0, 1, 8, 15, 16, 40, 48, 100, -40, -32, -1])
def test_a_part_of_a_snapshot_is_refused(length: int) -> None:
    """At whatever byte it ends."""
    assert "corrupt" == refusal(written()[:length]).reason


def test_any_other_byte_is_noticed() -> None:
    """Each byte matters, wherever it stands."""
    raw = written()
    for position in range(len(raw)):
        broken = bytearray(raw)
        broken[position] ^= 0x10
        assert refusal(bytes(broken)).reason in ("corrupt", "other_version")


def test_more_than_a_snapshot_is_refused() -> None:
    """Bytes behind the end are no part of one."""
    assert "corrupt" == refusal(written() + b"\0").reason


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        (OURS._replace(node="node-b"), "other_node"),
        (OURS._replace(cluster="https://192.0.2.2:6443"), "other_cluster"),
    ],
)
def test_objects_of_others_are_refused(identity: Identity, reason: str) -> None:
    """A disk that moved, or a node that joined another cluster."""
    assert reason == refusal(written(identity)).reason


@pytest.mark.parametrize("version", [0, format_.VERSION + 1, 2**32 - 1])
def test_another_version_is_refused_before_anything_else_of_it_is_read(version: int) -> None:
    """Who knows what a later one holds, or how it is checked."""
    raw = format_.MAGIC + struct.pack(">II", version, 2**32 - 1) + bytes(100)
    assert "other_version" == refusal(raw).reason


def test_other_fields_of_objects_are_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy whose objects have other fields would take one for another."""
    raw = written()
    monkeypatch.setattr(format_, "_SCHEMA", "another")
    assert "other_version" == refusal(raw).reason


@pytest.mark.parametrize(
    "raw",
    [
        with_frames((99, {})),
        with_frames((1, ["too", "few"])),
        with_frames((0, [1, 2, 3, 4, 5, 6])),
        with_frames((2, ["d", "w", "w", False, "IPv4", [], b"\0" * 16, [0]])),
        with_frames((2, ["d", "w", "w", False, "IPv4", [], b"\0" * 15, []])),
        with_body(b"no stream"),
        with_body(zlib.compress(struct.pack(">IB", 2**32 - 1, 1))),
        with_body(zlib.compress(struct.pack(">IB", 100, 1))),
        with_body(zlib.compress(b"\0\0")),
        with_body(zlib.compress(b"") + b"more"),
        with_body(zlib.compress(bytes(100_000))[:-10]),
    ],
)
def test_a_body_that_only_its_checksum_praises_is_refused(raw: bytes) -> None:
    """Whatever wrote it: no content does anything but be refused."""
    assert "corrupt" == refusal(raw).reason


def test_nothing_is_gathered_for_a_frame_that_no_object_fills() -> None:
    """Four gigabytes are refused when they are announced."""
    raw = with_body(zlib.compress(struct.pack(">IB", 2**32 - 1, 1)))
    assert f"a frame of {2**32 - 1} bytes" in refusal(raw).detail


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: raw[:12] + struct.pack(">I", 5) + raw[16:],
        lambda raw: raw[:12] + struct.pack(">I", 2**31) + raw[16:],
        lambda raw: raw[:16] + b"\xc1" + raw[17:],
        lambda raw: raw.replace(struct.pack(">d", 1700000000.5), struct.pack(">d", math.nan)),
    ],
)
def test_a_header_that_only_its_checksum_praises_is_refused(
    spoil: Callable[[bytes], bytes],
) -> None:
    """Its length and its content are checked like everything."""
    assert "corrupt" == refusal(signed(spoil(written()))).reason
