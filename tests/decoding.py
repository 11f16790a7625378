# SPDX-License-Identifier: Apache-2.0
"""Objects as the API server sends them, through the real decoder."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from kubeproxy_bpf.api.decode import Decoded, Kind, decoder_of
from kubeproxy_bpf.api.objects import Service

META = {"name": "x", "namespace": "d", "resourceVersion": "7"}


def decode(kind: Kind, document: Any) -> Decoded:
    return decoder_of(kind).decode(msgspec.Raw(json.dumps(document).encode()))


def service(**document: Any) -> Service:
    found = decode(Kind.SERVICE, {"metadata": META, **document}).object
    assert isinstance(found, Service)
    return found
