# SPDX-License-Identifier: Apache-2.0
"""Writes what the packet programs know of this node: map kpb_node, one entry of struct node.

An update of an array element is not atomic for the programs, which may read it half done. Therefore
a prefix that changes is first taken out of use (its mask becomes zero), then gets its new address,
and then its mask: whatever part of a write a program sees, an address matches the old prefix, the
new one, or none. Which addresses and prefixes these are is decided by ``node.identity``; ``feed``
calls.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import structlog

from kubeproxy_bpf.dataplane import layout
from kubeproxy_bpf.dataplane.layout import TypeInfo
from kubeproxy_bpf.libbpf.abc import Map
from kubeproxy_bpf.model.types import Prefix

_log = structlog.get_logger(__name__)

_KEY = struct.pack("=I", 0)
_ADDRESS = 16
_NO_ADDRESS = bytes(_ADDRESS)
_PODS = 2
"""Prefixes of pods, one for each family; those of Services follow."""


class NodeFacts(NamedTuple):
    """What the programs are told. None or nothing where there is nothing of a family."""

    ipv4: bytes | None = None
    """Primary addresses: what masqueraded flows come from."""
    ipv6: bytes | None = None
    pods_ipv4: Prefix | None = None
    """Sources in here are pods of this node, or of the cluster, as the local detector says."""
    pods_ipv6: Prefix | None = None
    service_cidrs: tuple[Prefix, ...] = ()
    """Addresses in here that no Service has are dropped [H2]."""


class NodeRecord(NamedTuple):
    """``struct node``, bound by name."""

    ipv4: bytes
    ipv6: bytes
    pods_ipv4: bytes
    pods_ipv6: bytes
    service_cidr: bytes
    service_cidrs: int


class PrefixRecord(NamedTuple):
    """``struct prefix``, bound by name."""

    address: bytes
    mask: bytes


_UNUSED = PrefixRecord(_NO_ADDRESS, _NO_ADDRESS)


class _Entry(NamedTuple):
    """A NodeRecord with its prefixes apart."""

    addresses: tuple[bytes, bytes]
    prefixes: tuple[PrefixRecord, ...]
    service_cidrs: int


class NodeMap:
    """The only writer of kpb_node."""

    def __init__(self, source: Map, btf: TypeInfo) -> None:
        self._map = source
        self._record = layout.bind(btf, "node", NodeRecord)
        self._prefix = layout.bind(btf, "prefix", PrefixRecord)
        members = {member.name: member for member in btf.structs["node"].members}
        self._room = members["service_cidr"].size // self._prefix.size
        self._told: tuple[Prefix, ...] = ()

    def write(self, facts: NodeFacts) -> None:
        """Let the programs know; nothing is written when they know already."""
        if len(facts.service_cidrs) > self._room and facts.service_cidrs != self._told:
            self._told = facts.service_cidrs
            # The addresses left out are then treated as any other: passed on by the routes.
            _log.warning("service_cidrs_left_out", known=len(facts.service_cidrs), room=self._room)
        for entry in _steps(self._read(), self._entry(facts)):
            self._map.update(_KEY, self._record.encode(self._joined(entry)))

    def _read(self) -> _Entry:
        raw = self._map.lookup(_KEY)
        assert raw is not None, "an array has all its elements"
        record = self._record.decode(raw)
        joined = record.pods_ipv4 + record.pods_ipv6 + record.service_cidr
        prefixes = tuple(self._prefix.decode_all(joined))
        return _Entry((record.ipv4, record.ipv6), prefixes, record.service_cidrs)

    def _entry(self, facts: NodeFacts) -> _Entry:
        cidrs = facts.service_cidrs[: self._room]
        wanted = (facts.pods_ipv4, facts.pods_ipv6, *cidrs)
        unused = (_UNUSED,) * (_PODS + self._room - len(wanted))
        return _Entry(
            (facts.ipv4 or _NO_ADDRESS, facts.ipv6 or _NO_ADDRESS),
            tuple(_prefix_record(prefix) for prefix in wanted) + unused,
            len(cidrs),
        )

    def _joined(self, entry: _Entry) -> NodeRecord:
        pods_ipv4, pods_ipv6, *services = map(self._prefix.encode, entry.prefixes)
        return NodeRecord(
            *entry.addresses, pods_ipv4, pods_ipv6, b"".join(services), entry.service_cidrs
        )


def _steps(old: _Entry, new: _Entry) -> list[_Entry]:
    """The writes that lead from one entry to the other.

    1. What changes stops matching: pods' prefixes by their mask, and the Services' are counted only
    up to the first that changes, as half of one address and half of another may be zero and match
    everything. 2. The new addresses come. 3. The new masks and their number come.
    """
    if old == new:
        return []
    if (old.prefixes, old.service_cidrs) == (new.prefixes, new.service_cidrs):
        return [new]
    changed = [before != after for before, after in zip(old.prefixes, new.prefixes, strict=True)]
    steady = (changed[_PODS:] + [True]).index(True)
    count = min(old.service_cidrs, new.service_cidrs, steady)
    off = old._replace(prefixes=_masked(old.prefixes, changed), service_cidrs=count)
    moved = new._replace(prefixes=_masked(new.prefixes, changed), service_cidrs=count)
    return [off, moved, new]


def _masked(prefixes: tuple[PrefixRecord, ...], off: list[bool]) -> tuple[PrefixRecord, ...]:
    return tuple(
        prefix._replace(mask=_NO_ADDRESS) if out else prefix
        for prefix, out in zip(prefixes, off, strict=True)
    )


def _prefix_record(prefix: Prefix | None) -> PrefixRecord:
    if prefix is None:
        return _UNUSED
    mask = (1 << 128) - (1 << (128 - prefix.bits))
    return PrefixRecord(prefix.address, mask.to_bytes(_ADDRESS, "big"))
