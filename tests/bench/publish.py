# SPDX-License-Identifier: Apache-2.0
"""Puts the figures of the last run of the packet path into docs/performance.md, plots beside it.

Reads what the run left in ``.build/bench``; the words around the tables are written by people.
Called by ``make bench BENCH_FLAGS="--only packets --publish"``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Iterator

import cost
import forward
import nodeport
from report import insert, markdown

PAGE = Path("docs/performance.md")
PLOTS = ("packet-cost.svg", "packet-rate.svg", "nodeport.svg")


def publish(directory: Path) -> None:
    """Write all tables, and copy the plots."""
    found = {
        name: json.loads((directory / f"{name}.json").read_text())
        for name in ("packet_cost", "packet_rate", "nodeport")
    }
    parts = {
        "packet-cost": _cost(found["packet_cost"]),
        "packet-size": _size(found["packet_cost"]),
        "nodeport": _connects(found["nodeport"]),
        "nodeport-established": _established(found["nodeport"]),
    }
    for flows in forward.FLOWS:
        parts[f"packet-rate-{flows}"] = _rate(found["packet_rate"], flows)
    insert(PAGE, parts)
    for plot in PLOTS:
        shutil.copy(directory / plot, PAGE.with_suffix("") / plot)


def _cost(results: dict[str, Any]) -> str:
    columns, rows = ["packet"], []
    for layer in results:
        columns += [f"{layer} ns", "against ns", "ratio"]
    for case, goal in cost.TARGETS.items():
        row = [case]
        for of_layer in results.values():
            f = of_layer["cases"][case]
            row += [_number(f["ours"]), _number(f["other"]), f"**{f['ratio']:.2f}**"]
        rows.append([*row, f"≤ {goal}"])
    return markdown([*columns, "goal"], rows)


def _size(results: dict[str, Any]) -> str:
    rows = [
        [layer, f"{f['instructions']:,}", f"{f['verified']:,}", f"{f['empty']:.0f}"]
        for layer, f in results.items()
    ]
    return markdown(["ingress", "instructions", "verified", "empty program ns"], rows)


def _rate(results: dict[str, Any], flows: int) -> str:
    columns = ["way", "Services", "Mpps there and back", f"of {forward.BASE} [95 %]"]
    columns += ["node: ns per packet", "Mpps", f"of {forward.BASE}", "goal"]
    rows = []
    for name in ("wire", "routing", "XDP", "TC", "nftables", "iptables"):
        for size in (0, *forward.SIZES):
            f = results.get(f"{name} {size} {flows}")
            if f is None:
                continue
            goal = f"≥ {forward.GOALS[name]}" if name in forward.GOALS else ""
            whole = [name, f"{size:,}" if size else "", f"{f['mpps']:.2f}", _interval(f)]
            node = [_number(f["node_ns"]), f"{f['node_mpps']:.2f}", f"{f['node_ratio']:.2f}"]
            rows.append([*whole, *node, goal])
    return markdown(columns, rows)


def _connects(results: dict[str, Any]) -> str:
    columns = ["backend", "variant", "of direct [95 %]", f"of {nodeport.BASE} [95 %]"]
    rows = []
    for place, name, f in _variants(results, "tcp"):
        latency = [f"{f[key]:.1f}" for key in ("min_us", "p50_us", "p99_us")]
        base = f["of_base"]
        ratio = f"**{base['mean']:.2f}** [{base['low']:.2f}, {base['high']:.2f}]"
        rows.append([place, name, _interval(f), ratio, f"{f['best']:,.0f}", *latency])
    return markdown([*columns, "best /s", "min µs", "p50 µs", "p99 µs"], rows)


def _established(results: dict[str, Any]) -> str:
    rows = []
    for place, name, f in _variants(results, "rr"):
        stream = results[f"{place} stream"][name]
        rows.append([place, name, _interval(f), f"{f['p50_us']:.1f}", _interval(stream)])
    columns = ["backend", "variant", "request/response of direct [95 %]", "p50 µs"]
    return markdown([*columns, "throughput of direct [95 %]"], rows)


def _variants(results: dict[str, Any], mode: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for place in ("remote", "local"):
        for name, figures in results[f"{place} {mode}"].items():
            yield place, name, figures


def _interval(figures: dict[str, float]) -> str:
    return f"{figures['ratio']:.2f} [{figures['low']:.2f}, {figures['high']:.2f}]"


def _number(value: float) -> str:
    return f"{value:,.0f}"
