# SPDX-License-Identifier: Apache-2.0
"""Writes to the maps of a running proxy, as another tool or a fault of memory would."""

from __future__ import annotations

import struct
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import kubeproxy_bpf
from kubeproxy_bpf.dataplane import layout
from kubeproxy_bpf.libbpf import BpfMap, BpfObject
from kubeproxy_bpf.plan.records import Backend, Frontend, FrontendKey, Record, Service, Slot, Vip

_OBJECT = Path(kubeproxy_bpf.__file__).parent / "obj" / "kube_proxy.bpf.o"
_STRUCTS: dict[str, Any] = {
    "services": ("service", Service),
    "records": ("record", Record),
    "slots": ("slot", Slot),
    "backends": ("backend", Backend),
    "frontends": ("frontend", Frontend),
    "vips": ("vip", Vip),
}


class Foreigner:
    """The pinned maps of one node, and their layouts."""

    def __init__(self, maps_dir: Path) -> None:
        self._maps_dir = maps_dir
        with BpfObject.open(_OBJECT) as opened:
            btf = opened.btf
        self._values = {n: layout.bind(btf, *each) for n, each in _STRUCTS.items()}
        self._key = layout.bind(btf, "frontend_key", FrontendKey)
        self._maps: dict[str, BpfMap] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        for each in self._maps.values():
            each.close()

    def map(self, name: str) -> BpfMap:
        """A map by its name without prefix."""
        if name not in self._maps:
            self._maps[name] = BpfMap.open_pinned(self._maps_dir / f"kpb_{name}")
        return self._maps[name]

    def read(self, name: str, key: Any) -> Any:
        raw = self.map(name).lookup(self._raw(name, key))
        return None if raw is None else self._values[name].decode(raw)

    def write(self, name: str, key: Any, value: Any) -> None:
        self.map(name).update(self._raw(name, key), self._values[name].encode(value))

    def remove(self, name: str, key: Any) -> None:
        self.map(name).delete(self._raw(name, key))

    def frontends(self) -> dict[FrontendKey, Frontend]:
        decode = self._values["frontends"].decode
        return {self._key.decode(k): decode(v) for k, v in self.map("frontends").items()}

    def word(self, name: str, number: int) -> int:
        raw = self.map(name).lookup(struct.pack("=I", number))
        assert raw is not None
        return int.from_bytes(raw, "little")

    def _raw(self, name: str, key: Any) -> bytes:
        if name == "frontends":
            return self._key.encode(key)
        return key if isinstance(key, bytes) else struct.pack("=I", key)
