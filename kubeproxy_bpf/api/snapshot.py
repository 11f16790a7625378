# SPDX-License-Identifier: Apache-2.0
"""The last known API objects as bytes: what a proxy writes down, and what the next one believes.

    magic (8) | version u32 | header length u32 | header | body | SHA-256 of all before (32)

The header, msgpack, says for which node and which cluster the objects are, when they were true, and
how the fields of objects are laid out. The body is one zlib stream of frames (length u32, kind u8,
msgpack), an object each, so that neither side ever holds all of it as bytes. Endpoints name their
traits by number; a frame of its own brings each distinct one before its first use.

Whatever is not exactly that is refused as a whole, with the reason; no content, however it came to
be, does anything else. Where the bytes come from is the part of ``snapshot_file``, when to write
and when to believe that of the application.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from sys import intern
from typing import Any, BinaryIO, Callable, Collection, Iterable, Iterator, Mapping, NamedTuple

import msgspec

from kubeproxy_bpf.api import objects
from kubeproxy_bpf.api.decode import UNREADABLE, ApiObject, Kind
from kubeproxy_bpf.errors import KubeProxyError

MAGIC = b"KPBSNAP\0"
VERSION = 1
SIZE_MAX = 256 << 20
"""Ten times the worst cluster that the maps could hold."""

_PREFIX = struct.Struct(">8sII")
_FRAME = struct.Struct(">IB")
_DIGEST_SIZE = hashlib.sha256().digest_size
_HEADER_MAX = 64 << 10
_FRAME_MAX = 16 << 20
"""An object on the API server has at most 3 MiB."""
_UNENCODABLE = (OverflowError, ValueError)
"""Numbers beyond 64 bits and text that is no UTF-8: nothing of that can be served."""
_PIECE = 64 << 10
_LEVEL = 1
"""Of zlib: 9 saves a tenth of the bytes for eight times the work."""


class Identity(NamedTuple):
    """Whose objects they are."""

    node: str
    cluster: str


class SnapshotRefused(KubeProxyError):
    """A snapshot that is not to be believed; ``reason`` is one of a few words."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class Snapshot(NamedTuple):
    written: float
    """Unix time at which the objects were what the API server said."""
    objects: Mapping[Kind, tuple[ApiObject, ...]]


class _Header(msgspec.Struct, frozen=True):
    node: str
    cluster: str
    written: float
    schema: str
    counts: dict[str, int]


class _Slice(NamedTuple):
    """An EndpointSlice with traits by number and without the time, which would be another's."""

    namespace: str
    name: str
    service: str
    headless: bool
    address_type: str
    ports: tuple[objects.SlicePort, ...]
    addresses: bytes
    traits: tuple[int, ...]


_TRAITS = 0
_NUMBERS = {kind: number for number, kind in enumerate(Kind, start=1)}
_TYPES: Mapping[int, Any] = {
    _TRAITS: objects.EndpointTraits,
    _NUMBERS[Kind.SERVICE]: objects.Service,
    _NUMBERS[Kind.ENDPOINT_SLICE]: _Slice,
    _NUMBERS[Kind.NODE]: objects.Node,
    _NUMBERS[Kind.POD]: objects.Pod,
    _NUMBERS[Kind.SERVICE_CIDR]: objects.ServiceCIDR,
}
_PARTS = (objects.ServicePort, objects.Ingress, objects.SlicePort, objects.HostPort)
_SCHEMA = hashlib.sha256(
    repr([list(t.__annotations__.items()) for t in (*_TYPES.values(), *_PARTS)]).encode()
).hexdigest()[:16]
"""Fields are told apart by their place, so a proxy with other fields must not read them."""
_UNIQUE = frozenset({"uid", "cluster_ip"})
"""Fields that no other object repeats."""


# ---- writing ----


def encode(
    identity: Identity, written: float, found: Mapping[Kind, Collection[ApiObject]]
) -> Iterator[bytes]:
    """The snapshot of these objects, in pieces."""
    counts = {kind.value: len(of_kind) for kind, of_kind in found.items()}
    header = msgspec.msgpack.encode(
        _Header(identity.node, identity.cluster, written, _SCHEMA, counts)
    )
    head = _PREFIX.pack(MAGIC, VERSION, len(header)) + header
    digest = hashlib.sha256(head)
    yield head
    for piece in _compressed(_frames(found)):
        digest.update(piece)
        yield piece
    yield digest.digest()


def _frames(found: Mapping[Kind, Collection[ApiObject]]) -> Iterator[bytes]:
    encode = msgspec.msgpack.Encoder().encode
    numbers: dict[objects.EndpointTraits, int] = {}
    for kind, of_kind in found.items():
        for each in of_kind:
            try:
                yield from _frames_of(each, _NUMBERS[kind], numbers, encode)
            except _UNENCODABLE:
                continue


def _frames_of(
    each: ApiObject,
    number: int,
    numbers: dict[objects.EndpointTraits, int],
    encode: Callable[[Any], bytes],
) -> Iterator[bytes]:
    """An object, after the traits that it is the first to have."""
    if not isinstance(each, objects.EndpointSlice):
        yield _frame(number, encode(each))
        return
    for traits in each.traits:
        if traits not in numbers:
            yield _frame(_TRAITS, encode(traits))
            numbers[traits] = len(numbers)
    yield _frame(number, encode(_packed(each, numbers)))


def _frame(number: int, payload: bytes) -> bytes:
    if len(payload) > _FRAME_MAX:
        raise ValueError("no API server has such an object")
    return _FRAME.pack(len(payload), number) + payload


def _packed(each: objects.EndpointSlice, numbers: Mapping[objects.EndpointTraits, int]) -> _Slice:
    return _Slice(
        each.namespace,
        each.name,
        each.service,
        each.headless,
        each.address_type,
        each.ports,
        b"".join(each.addresses),
        tuple(map(numbers.__getitem__, each.traits)),
    )


def _compressed(frames: Iterable[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(_LEVEL)
    waiting = bytearray()
    for frame in frames:
        waiting += frame
        if len(waiting) >= _PIECE:
            yield compressor.compress(waiting)
            waiting.clear()
    yield compressor.compress(waiting) + compressor.flush()


# ---- reading ----


def decode(source: BinaryIO, size: int, identity: Identity) -> Snapshot:
    """Read a snapshot of this many bytes from its beginning; the source can be read again.

    Raises:
        SnapshotRefused: it is none, is broken, or is another's.
        OSError: the source.
    """
    header_size = _check_prefix(source.read(_PREFIX.size), size)
    source.seek(0)
    _check_digest(source, size)
    source.seek(_PREFIX.size)
    header = _header(source.read(header_size))
    _check_identity(header, identity)
    body = size - _PREFIX.size - header_size - _DIGEST_SIZE
    try:
        found = _objects(_decompressed(source, body))
    except (*UNREADABLE, zlib.error, ValueError, LookupError) as error:
        raise SnapshotRefused("corrupt", f"an object cannot be read: {error}") from None
    return Snapshot(header.written, found)


def _check_prefix(prefix: bytes, size: int) -> int:
    if size == 0:
        raise SnapshotRefused("corrupt", "it is empty")
    if not prefix.startswith(MAGIC):
        raise SnapshotRefused("corrupt", "it does not begin as a snapshot")
    if size > SIZE_MAX or min(size, len(prefix) + _DIGEST_SIZE) < _PREFIX.size + _DIGEST_SIZE:
        raise SnapshotRefused("corrupt", f"{size} bytes are too many or too few")
    _, version, header_size = _PREFIX.unpack(prefix)
    if version != VERSION:
        raise SnapshotRefused("other_version", f"format {version}, this proxy reads {VERSION}")
    if header_size > min(_HEADER_MAX, size - _PREFIX.size - _DIGEST_SIZE):
        raise SnapshotRefused("corrupt", "its header is too long")
    return int(header_size)


def _check_digest(source: BinaryIO, size: int) -> None:
    digest = hashlib.sha256()
    for piece in _pieces(source, size - _DIGEST_SIZE):
        digest.update(piece)
    if source.read(_DIGEST_SIZE) != digest.digest():
        raise SnapshotRefused("corrupt", "its checksum is another")


def _pieces(source: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0:
        piece = source.read(min(size, _PIECE))
        if not piece:
            return
        size -= len(piece)
        yield piece


def _header(raw: bytes) -> _Header:
    try:
        header = msgspec.msgpack.decode(raw, type=_Header)
    except UNREADABLE as error:
        raise SnapshotRefused("corrupt", f"its header cannot be read: {error}") from None
    if not math.isfinite(header.written):
        raise SnapshotRefused("corrupt", "it has no time")
    return header


def _check_identity(header: _Header, identity: Identity) -> None:
    if header.schema != _SCHEMA:
        raise SnapshotRefused("other_version", "written by a proxy that knows other fields")
    if header.node != identity.node:
        raise SnapshotRefused("other_node", f"it is of node {header.node!r}")
    if header.cluster != identity.cluster:
        raise SnapshotRefused("other_cluster", f"it is of {header.cluster!r}")


def _decompressed(source: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    """The frames, by number and payload."""
    decompressor = zlib.decompressobj()
    waiting = bytearray()
    for piece in _pieces(source, size):
        while piece:
            waiting += decompressor.decompress(piece, _PIECE)
            piece = decompressor.unconsumed_tail
            yield from _whole_frames(waiting)
    waiting += decompressor.flush()
    yield from _whole_frames(waiting)
    if waiting or not decompressor.eof or decompressor.unused_data:
        raise ValueError("the last frame is not whole")


def _whole_frames(waiting: bytearray) -> Iterator[tuple[int, bytes]]:
    begin = 0
    while len(waiting) - begin >= _FRAME.size:
        length, number = _FRAME.unpack_from(waiting, begin)
        if length > _FRAME_MAX:
            raise ValueError(f"a frame of {length} bytes")
        end = begin + _FRAME.size + length
        if end > len(waiting):
            break
        yield number, bytes(waiting[begin + _FRAME.size : end])
        begin = end
    del waiting[:begin]


def _objects(frames: Iterable[tuple[int, bytes]]) -> dict[Kind, tuple[ApiObject, ...]]:
    decoders = {number: msgspec.msgpack.Decoder(shape) for number, shape in _TYPES.items()}
    found: dict[int, list[ApiObject]] = {number: [] for number in _NUMBERS.values()}
    traits: list[objects.EndpointTraits] = []
    share = _sharing()
    for number, payload in frames:
        read = decoders[number].decode(payload)
        if number == _TRAITS:
            traits.append(share(read))
        elif isinstance(read, _Slice):
            found[number].append(_unpacked(share(read), traits))
        else:
            found[number].append(share(read))
    return {kind: tuple(found[number]) for kind, number in _NUMBERS.items()}


def _unpacked(packed: _Slice, known: list[objects.EndpointTraits]) -> objects.EndpointSlice:
    raw = packed.addresses
    if len(raw) != 16 * len(packed.traits):
        raise ValueError("a slice whose addresses and traits are not as many")
    addresses = tuple(raw[begin : begin + 16] for begin in range(0, len(raw), 16))
    traits = tuple(known[number] for number in packed.traits)
    return objects.EndpointSlice(*packed[:6], addresses, traits)


def _sharing() -> Callable[[Any], Any]:
    """Makes equal strings and tuples of objects one, as the decoder of the API does.

    Tuples by the type of their field: records of two kinds may be equal, and are not the same.
    """
    once: dict[str, Callable[[Any], Any]] = {"str": intern, "str | None": _interned}

    def sharer(name: str, hint: Any) -> Callable[[Any], Any] | None:
        annotation = str(getattr(hint, "__forward_arg__", hint))
        if name in _UNIQUE or not annotation.startswith(("str", "tuple", "frozenset")):
            return None
        if annotation not in once:
            kept = {}.setdefault  # type: ignore[var-annotated]
            once[annotation] = lambda value: kept(value, value)
        return once[annotation]

    sharers = {
        shape: tuple(sharer(*field) for field in shape.__annotations__.items())
        for shape in _TYPES.values()
    }

    def share(each: Any) -> Any:
        fields = zip(sharers[type(each)], each)
        return type(each)(*[shared(value) if shared else value for shared, value in fields])

    return share


def _interned(value: str | None) -> str | None:
    return None if value is None else intern(value)
