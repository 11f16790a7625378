# SPDX-License-Identifier: Apache-2.0
"""Aligned text tables for people: Services and whatever else has rows. Pure."""

from __future__ import annotations

from typing import Iterable, Iterator, Sequence

from kubeproxy_bpf.sandbox.inventory import Manifest


def service_rows(services: Iterable[Manifest]) -> Iterator[Sequence[str]]:
    """Services with everything under which they are reached."""
    yield ("SERVICE", "TYPE", "CLUSTER IPS", "EXTERNAL IPS", "PORTS")
    for service in services:
        spec = service["spec"]
        status = service.get("status", {}).get("loadBalancer", {}).get("ingress") or []
        external = [*spec.get("externalIPs", []), *(entry.get("ip", "") for entry in status)]
        yield (
            name_of(service),
            spec.get("type", "ClusterIP"),
            " ".join(spec.get("clusterIPs") or [spec.get("clusterIP", "")]),
            " ".join(external),
            " ".join(_port(port) for port in spec.get("ports", [])),
        )


def _port(port: Manifest) -> str:
    node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port['port']}{node_port}/{port.get('protocol', 'TCP')}"


def name_of(manifest: Manifest) -> str:
    return str(manifest.get("metadata", {}).get("name", ""))


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Aligned columns; the last one keeps its own width."""
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells
    ]
