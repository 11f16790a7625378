# SPDX-License-Identifier: Apache-2.0
"""A client outside that connects to a node port: ours against rules, and against no Service at all.

Backends are a pod of another node ("remote") and one of the node itself ("local"). All variants run
in turns, as in connect.py; "direct" dials the backend's address through the same node, which then
only routes.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import rules
from connect import Variant, interleave, summarise
from packetpath import PacketPath
from report import paired_ratio, save
from rules import Shape
from topology import BACKEND, NODE, POD, PORT, Row

from kubeproxy_bpf.dataplane.settings import ConfigFlags

SIZES = (1, 5000)
LARGEST = SIZES[-1]
BASE = f"nftables {LARGEST}"
GOAL = 1.3
"""Connections per second against BASE."""
_MODES = (
    ("tcp", 1.0, "at_median_per_s", "TCP connect + close"),
    ("rr", 2.0, "at_median_per_s", "request/response, established"),
    ("stream", 0.25, "mb_per_s", "throughput, established"),
)
"""Mode of load.c, how many of what ``count`` says, figure, title."""


class Ours(NamedTuple):
    """A way in which our programs are at work."""

    name: str
    size: int
    xdp: bool = False
    flags: ConfigFlags = ConfigFlags(0)


WAYS = (
    *(Ours(f"TC {size}", size) for size in SIZES),
    Ours(f"TC {LARGEST}, redirect to pods", LARGEST, flags=ConfigFlags.REDIRECT_PEER),
    Ours(f"XDP {LARGEST}", LARGEST, xdp=True),
)


def shape(size: int) -> Shape:
    """Both tested Services have one backend, three times as in the rules of others."""
    remote = (f"{BACKEND}:{PORT}",) * rules.ENDPOINTS
    return Shape(size, remote, "tcp", NODE, f"{POD}:{PORT}")


def main(directory: Path, load: Path, rounds: int = 20, count: int = 600) -> dict[str, Any]:
    """Measure both backends and print a table per mode."""
    results: dict[str, Any] = {}
    with ExitStack() as stack:
        variants = _variants(stack, load)
        for place in ("remote", "local"):
            for mode, times, figure, title in _MODES:
                samples = interleave(variants[place], load, mode, int(times * count), rounds)
                _add_median(samples)
                name = f"{place} backend: {title}"
                results[f"{place} {mode}"] = summarise(name, samples, figure)
                if mode == "tcp":
                    _against_base(results[f"{place} {mode}"], samples)
    save(directory, "nodeport", results)
    return results


def _variants(stack: ExitStack, load: Path) -> dict[str, list[Variant]]:
    """By place of the backend."""
    rows: list[tuple[str, Row, int]] = []
    clean = stack.enter_context(Row("np", load, pod=True))
    for number, ours in enumerate(WAYS):
        row = stack.enter_context(Row(f"np{number}", load, pod=True))
        path = stack.enter_context(PacketPath(row, shape(ours.size), ours.flags))
        path.attach(xdp=ours.xdp)
        if ours.xdp:
            _fit_for_xdp(row)
        rows.append((ours.name, row, ours.size))
    for name, text, command in (
        ("iptables", rules.iptables, ["iptables-legacy-restore"]),
        ("nftables", rules.nftables, ["nft", "-f", "-"]),
    ):
        for size in SIZES:
            print(f"installing {name} rules of {size} Services", flush=True)
            row = stack.enter_context(Row(f"np{name[:3]}{size}", load, pod=True))
            row.run("n", command, stdin=text(shape(size)))
            rows.append((f"{name} {size}", row, size))
    remote = [Variant("direct", clean, BACKEND, PORT, None)]
    local = [Variant("direct", clean, POD, PORT, None)]
    for name, row, size in rows:
        remote.append(Variant(name, row, NODE, shape(size).node_port, None))
        local.append(Variant(name, row, NODE, shape(size).pod_node_port, None))
    return {"remote": remote, "local": local}


def _fit_for_xdp(row: Row) -> None:
    """A frame on a veth has no checksum yet and may be 64 KB long: nothing that a wire carries.

    Redirected frames lose the note that says so; and they reach only a device that has GRO.
    """
    for part, device in (("c", "c0"), ("b", "b0")):
        row.offload(part, device, "tx", "off")
        row.offload(part, device, "gro", "on")


def _add_median(samples: dict[str, list[dict[str, float]]]) -> None:
    """Rates by the median: a mean of microseconds is decided by who else uses the processor."""
    for of_variant in samples.values():
        for sample in of_variant:
            if "p50_us" in sample:
                sample["at_median_per_s"] = 1e6 / sample["p50_us"]


def _against_base(summary: dict[str, Any], samples: dict[str, list[dict[str, float]]]) -> None:
    """Say what the goal speaks of: connections against nftables."""
    base = [sample["at_median_per_s"] for sample in samples[BASE]]
    for name, of in samples.items():
        ratio = paired_ratio([sample["at_median_per_s"] for sample in of], base)
        summary[name]["of_base"] = ratio._asdict()
        if name.startswith(("TC", "XDP")):
            print(f"{name} against {BASE}: {ratio} (goal {GOAL})")
    print()
