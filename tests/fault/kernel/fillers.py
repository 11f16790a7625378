# SPDX-License-Identifier: Apache-2.0
"""Services that are too large for a map, and clients that are too many for a table."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import Any

from tests.fault.load.stage import Manifest

SIZES = {"frontends": 40, "services": 24, "slots": 96, "backends": 48}
"""Of node1's maps: room for the Service of the load, and for one of two fillers of each kind."""


def flags() -> list[str]:
    return [f"--bpf-max-{name}={size}" for name, size in SIZES.items()]


def fillers(full_map: str, name: str, number: int) -> list[Manifest]:
    """The objects of a Service that takes more than half of what is free of one map."""
    ports, addresses, endpoints = {
        "frontends": (6, 4, 0),
        "services": (12, 0, 0),
        "slots": (4, 0, 14),
        "backends": (1, 0, 26),
    }[full_map]
    service: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "ports": [{"name": f"p{port}", "port": 1000 + port} for port in range(ports)],
            "externalIPs": [f"203.0.113.{number * 100 + each + 1}" for each in range(addresses)],
        },
    }
    return [service, *([_slice(name, number, ports, endpoints)] if endpoints else [])]


def _slice(name: str, number: int, ports: int, endpoints: int) -> Manifest:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": f"p{port}", "port": 8080, "protocol": "TCP"} for port in range(ports)],
        "endpoints": [
            {"addresses": [f"10.98.{number}.{each + 1}"], "conditions": {"ready": True}}
            for each in range(endpoints)
        ],
    }


def scan(address: str, port: int, datagrams: int) -> int:
    """So many flows of one datagram each that nobody waits for; how many were sent."""
    sent = 0
    while sent < datagrams:
        socks = []
        for _ in range(min(200, datagrams - sent)):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            socks.append(sock)
            with suppress(OSError):
                sock.sendto(b"name\n", (address, port))
                sent += 1
        for sock in socks:
            sock.close()
    return sent


def faithful(sources: list[str], address: str, port: int) -> dict[str, set[str]]:
    """What answers clients of these addresses who ask three times in a row."""
    return {source: {_asked(source, address, port) for _ in range(3)} for source in sources}


def _asked(source: str, address: str, port: int) -> str:
    deadline = time.monotonic() + 3
    with socket.create_connection((address, port), 3, source_address=(source, 0)) as sock:
        sock.settimeout(deadline - time.monotonic())
        sock.sendall(b"name\n")
        return sock.recv(100).decode().strip()
