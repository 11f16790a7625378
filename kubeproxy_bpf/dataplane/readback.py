# SPDX-License-Identifier: Apache-2.0
"""Reads the real maps for the audit: arrays compared as bytes, hash maps in batches.

Keeps the promise of ``plan.held``. Nothing is decoded but what differs, and what a batch of a hash
map holds. Made by the writer, for whoever holds its plans off meanwhile.
"""

from __future__ import annotations

from typing import Any, Iterable, Iterator, Sequence

from kubeproxy_bpf.dataplane.hashmaps import HashMap
from kubeproxy_bpf.dataplane.maps import ServiceMaps
from kubeproxy_bpf.plan.held import Entry


class HeldMaps:
    """The maps of a writer, for reading."""

    def __init__(self, maps: ServiceMaps) -> None:
        self._maps = maps
        self._arrays: dict[str, Any] = {
            "services": maps.words,
            "records": maps.records,
            "slots": maps.slots,
            "backends": maps.backends,
            "node_ports": maps.node_ports,
        }

    def differing(self, name: str, expected: Sequence[Entry]) -> list[Entry]:
        found: list[Entry] = self._arrays[name].differing(expected) if expected else []
        return found

    def entries(self, name: str) -> Iterator[Sequence[Entry]]:
        table = self._table(name)
        return table.parts() if table is not None else iter(())

    def lookup(self, name: str, keys: Iterable[Any]) -> dict[Any, Any]:
        table = self._table(name)
        return table.lookup(keys) if table is not None else {}

    def _table(self, name: str) -> HashMap[Any, Any] | None:
        tables: dict[str, HashMap[Any, Any] | None] = {
            "vips": self._maps.vips,
            "frontends": self._maps.frontends,
            "source_ranges": self._maps.source_ranges,
        }
        return tables[name]
