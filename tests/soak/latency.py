# SPDX-License-Identifier: Apache-2.0
"""How long a change of an endpoint takes from the request to the maps of a node."""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.dataplane import layout
from kubeproxy_bpf.instance import object_path
from kubeproxy_bpf.libbpf import BpfMap, BpfObject
from kubeproxy_bpf.plan.records import Frontend, FrontendKey
from kubeproxy_bpf.sandbox.apiserver import bulk
from kubeproxy_bpf.sandbox.cluster import Sandbox
from tests.soak.api import Api
from tests.soak.changes import PROBE, address, slice_of, slice_path
from tests.soak.readings import NODE

_LOOK_S = 0.0005
_PATIENCE_S = 20.0


class Latency:
    """Changes the one endpoint of the probe's Service and watches the word that publishes it."""

    def __init__(self, sandbox: Sandbox, api: Api) -> None:
        self._api = api
        self._pins = sandbox.pin_path(NODE)
        self._turn = 0
        with BpfObject.open(object_path("kube_proxy.bpf.o")) as opened:
            self._key = layout.bind(opened.btf, "frontend_key", FrontendKey)
            self._value = layout.bind(opened.btf, "frontend", Frontend)

    def measure(self) -> float | None:
        """Milliseconds; None: it did not arrive in time."""
        self._turn += 1
        (maps,) = {path.parent for path in self._pins.glob("*/kpb_frontends")}
        with BpfMap.open_pinned(maps / "kpb_services") as services:
            words = services.mmap(writable=False)
        try:
            offset = 8 * self._index(maps)
            before = struct.unpack_from("=Q", words, offset)
            begun = time.monotonic()
            self._api.put(slice_path(PROBE), slice_of(PROBE, [address(60_000 + self._turn % 2)]))
            while struct.unpack_from("=Q", words, offset) == before:
                if time.monotonic() > begun + _PATIENCE_S:
                    return None
                time.sleep(_LOOK_S)
            return (time.monotonic() - begun) * 1e3
        finally:
            words.close()

    def _index(self, maps: Path) -> int:
        vip = parse_address(bulk.cluster_ip(PROBE))
        assert vip is not None
        with BpfMap.open_pinned(maps / "kpb_frontends") as frontends:
            key = self._key.encode(FrontendKey(vip, bulk.PORT, socket.IPPROTO_TCP))
            entry = frontends.lookup(key)
        assert entry is not None, "the probe's Service is not programmed"
        return int(self._value.decode(entry).service)
