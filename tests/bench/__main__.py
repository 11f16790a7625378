# SPDX-License-Identifier: Apache-2.0
"""``make bench``: measure everything, print tables, write JSON and plots to ``.build/bench``.

Not part of the tests: nothing here judges. ``--rounds N`` trades time for narrower intervals;
``--only connect``, ``--only control`` or ``--only packets`` measures one part; ``--publish`` puts
the figures of the packet path into docs/performance.md.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

import connect
import control
import forward
import nodeport
import packets
from publish import publish
from report import plot_bars, plot_groups, plot_lines

DIRECTORY = Path(".build/bench")
RIVALS = ("XDP", "TC", "nftables", "iptables")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--only", choices=("connect", "control", "packets"))
    parser.add_argument("--publish", action="store_true", help="packets: into docs/performance.md")
    options = parser.parse_args()
    print(f"kernel {platform.release()}, figures are ratios of one run\n")
    if options.only in (None, "connect"):
        plot_connect(connect.main(DIRECTORY, options.rounds))
    if options.only in (None, "packets"):
        plot_packets(packets.main(DIRECTORY, options.rounds))
        if options.publish:
            publish(DIRECTORY)
    if options.only in (None, "control"):
        plot_control(control.main(DIRECTORY, changes=options.changes))
    print(f"results and plots: {DIRECTORY}")


def plot_connect(results: dict[str, Any]) -> None:
    """Connections per second by number of Services, and the modes of established traffic."""
    series = {}
    for kind in ("hook", "iptables", "nftables"):
        ratios = [results["tcp"][f"{kind} {size}"]["ratio"] for size in connect.SIZES]
        series[kind] = (list(connect.SIZES), ratios)
    plot_lines(
        DIRECTORY / "connect.svg",
        "TCP connect + close through a VIP, against direct",
        "Services",
        "of direct",
        series,
        logx=True,
    )
    largest = f"hook {connect.SIZES[-1]}"
    plot_bars(
        DIRECTORY / "established.svg",
        f"Through the hook with {connect.SIZES[-1]} Services, against direct",
        {
            label: results[mode][largest]
            for mode, label in (
                ("udp", "UDP send"),
                ("rr", "request/response"),
                ("stream", "throughput"),
            )
        },
    )


def plot_packets(results: dict[str, Any]) -> None:
    """Cost, rate and connections of the packet path, each beside what it is compared with."""
    plot_cost(results["cost"])
    plot_rate(results["rate"])
    series = {
        name: {
            f"{place} backend": results["nodeport"][f"{place} tcp"][f"{name} {nodeport.LARGEST}"][
                "ratio"
            ]
            for place in ("remote", "local")
        }
        for name in RIVALS
    }
    title = f"TCP connect + close through a node port, {nodeport.LARGEST:,} Services"
    plot_groups(DIRECTORY / "nodeport.svg", title, "of direct", series)


def plot_cost(cost: dict[str, Any]) -> None:
    """Nanoseconds of each kind of packet; new flows are of another size and stay away."""
    series: dict[str, dict[str, float]] = {}
    for layer, of_layer in cost.items():
        for case, figures in of_layer["cases"].items():
            if case != "new flow":
                series.setdefault(f"{layer}, ours", {})[case] = figures["ours"]
                series.setdefault(f"{layer}, bare", {})[case] = figures["other"]
    plot_groups(DIRECTORY / "packet-cost.svg", "Cost of a packet", "ns", series)


def plot_rate(rate: dict[str, Any]) -> None:
    """Packets per second by Services and flows."""
    series = {
        name: {
            f"Services: {size:,}\nflows: {flows:,}": rate[f"{name} {size} {flows}"]["node_mpps"]
            for size in forward.SIZES
            for flows in forward.FLOWS
        }
        for name in RIVALS
    }
    title = "Packets that one processor of the node passes"
    plot_groups(DIRECTORY / "packet-rate.svg", title, "Mpps", series)


def plot_control(rounds: list[dict[str, Any]]) -> None:
    """Start and change by number of Services, best of the rounds."""
    sizes = sorted({r["services"] for r in rounds})

    def best(figure: Any) -> list[float]:
        return [min(figure(r) for r in rounds if r["services"] == size) for size in sizes]

    plot_lines(
        DIRECTORY / "control.svg",
        "Start of the process until everything is programmed (10 endpoints each)",
        "Services",
        "seconds",
        {
            "wall": (sizes, best(lambda r: r["start_s"])),
            "CPU": (sizes, best(lambda r: r["cpu_s"])),
        },
    )


if __name__ == "__main__":
    main()
