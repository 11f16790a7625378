# SPDX-License-Identifier: Apache-2.0
"""Connections through a VIP: our hook against the pod address, iptables rules and nftables maps.

All variants run in turns, in rounds, each in namespaces of its own. "direct" dials the backend's
address without hooks; "hook" dials the VIP through ours, with N Services programmed; "iptables" and
"nftables" dial it through rules of kube-proxy's shape. The program's own time is read from the
kernel's BPF statistics, with the cost of taking them subtracted.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Iterator, NamedTuple

import rules
from report import Ratio, paired_ratio, save, table
from topology import BACKEND, BACKEND6, PORT, Row

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.dataplane import attach
from kubeproxy_bpf.dataplane.loader import Datapath, load_datapath
from kubeproxy_bpf.dataplane.mounts import find_cgroup_root
from kubeproxy_bpf.dataplane.program import Programmer
from kubeproxy_bpf.dataplane.settings import ConfigFlags, Settings, netns_cookie
from kubeproxy_bpf.dataplane.writer import Writer
from kubeproxy_bpf.instance import object_path
from kubeproxy_bpf.libbpf import enable_stats
from kubeproxy_bpf.log import set_up
from kubeproxy_bpf.model.types import BackendSpec, Changes, Desired, FrontendSpec, ServicePortId
from kubeproxy_bpf.plan.records import FrontendKind, RecordFlags, VipFlags

SIZES = (1, 1000, 10000)
VIP6 = "fd00:96::1"
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP


class Hooked:
    """A control group whose sockets pass our hooks, with N Services programmed."""

    def __init__(self, count: int, flags: ConfigFlags = ConfigFlags.TCP_ORIGIN) -> None:
        self.cgroup = find_cgroup_root() / f"kpbbench-{os.getpid()}-{count}-{int(flags)}"
        self.cgroup.mkdir()
        settings = Settings(netns_cookie(), 1, flags)
        self.datapath: Datapath = load_datapath(object_path("kube_proxy.bpf.o"), None, {}, settings)
        self.links = attach.attach(self.datapath.programs, self.cgroup)
        asyncio.run(self._fill(count))

    def close(self) -> None:
        attach.close_all(self.links.values())
        self.datapath.close()
        self.cgroup.rmdir()

    def __enter__(self) -> Hooked:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _fill(self, count: int) -> None:
        writer = Writer(self.datapath.maps, self.datapath.btf)
        programmer = Programmer(writer)
        await programmer.start()
        services = dict(_services(count))
        vips = {
            spec.address: int(VipFlags.CLUSTER_IP)
            for desired in services.values()
            for spec in desired.frontends
        }
        outcome = await programmer.apply(Changes(services, vips, complete=True))
        assert outcome.clean, outcome
        await programmer.close()
        writer.close()

    def program_ns(self, name: str, exercise: Any) -> float:
        """Mean run time of a program over an exercise, from the kernel's statistics."""
        program = self.datapath.programs[name]
        with enable_stats():
            before = program.info()
            exercise()
            after = program.info()
        return (after.run_time_ns - before.run_time_ns) / (after.run_cnt - before.run_cnt)


def shape(count: int) -> rules.Shape:
    """The tested Service has one backend, three times as in the rules of others."""
    return rules.Shape(count, (f"{BACKEND}:{PORT}",) * rules.ENDPOINTS)


def _services(count: int) -> Iterator[tuple[ServicePortId, Desired]]:
    """The Services of the rules, and the tested one over UDP and IPv6 too."""
    for index, service in enumerate(rules.services(shape(count))):
        targets = [endpoint.rpartition(":") for endpoint in dict.fromkeys(service.endpoints)]
        yield _service(index, service.vip, TCP, [(host, int(port)) for host, _, port in targets])
    yield _service(count, rules.TESTED_VIP, UDP, [(BACKEND, PORT)])
    yield _service(count + 1, VIP6, TCP, [(BACKEND6, PORT)])


def _service(
    index: int, vip: str, protocol: int, targets: list[tuple[str, int]]
) -> tuple[ServicePortId, Desired]:
    family = 6 if ":" in vip else 4
    address = _packed(vip)
    frontend = FrontendSpec(address, rules.PORT, protocol, FrontendKind.CLUSTER_IP, 0)
    backends = tuple(BackendSpec(_packed(host), port, protocol, 0) for host, port in targets)
    desired = Desired((frontend,), backends, len(backends), 0, 0, 0, int(RecordFlags.HAS_ENDPOINTS))
    return ServicePortId("service", "bench", f"s{index}", "", protocol, family), desired


def _packed(text: str) -> bytes:
    address = parse_address(text)
    assert address is not None
    return address


class Variant(NamedTuple):
    name: str
    row: Row
    address: str
    port: int
    cgroup: Path | None

    def run(self, load: Path, mode: str, count: int) -> dict[str, float]:
        argv = [str(load), mode, self.address, str(self.port), str(count)]
        return dict(json.loads(self.row.run("c", argv, cgroup=self.cgroup)))


def interleave(
    variants: list[Variant], load: Path, mode: str, count: int, rounds: int
) -> dict[str, list[dict[str, float]]]:
    """All variants in turns; the order changes from round to round."""
    results: dict[str, list[dict[str, float]]] = {variant.name: [] for variant in variants}
    for number in range(rounds):
        print(f"\r{mode}: round {number + 1} of {rounds}", end="", file=sys.stderr, flush=True)
        turn = number % len(variants)
        for variant in variants[turn:] + variants[:turn]:
            results[variant.name].append(variant.run(load, mode, count))
    print(file=sys.stderr)
    return results


def summarise(
    title: str, results: dict[str, list[dict[str, float]]], figure: str
) -> dict[str, Any]:
    """Print a table of one mode, all against "direct" of the same round."""
    base = [sample[figure] for sample in results["direct"]]
    rows, summary = [], {}
    for name, samples in results.items():
        values = [sample[figure] for sample in samples]
        ratio = paired_ratio(values, base)
        summary[name] = {"ratio": ratio.mean, "low": ratio.low, "high": ratio.high}
        summary[name]["best"] = max(values)
        row: list[Any] = [name, max(values), _interval(ratio)]
        for key in ("min_us", "p50_us", "p99_us"):
            if key in samples[0]:
                summary[name][key] = min(sample[key] for sample in samples)
                row.append(summary[name][key])
        rows.append(row)
    columns = ["variant", f"best {figure}", "of direct [95 %]", "min us", "p50 us", "p99 us"]
    print(table(title, columns[: len(rows[0])], rows))
    return summary


def _interval(ratio: Ratio) -> str:
    return f"{ratio.mean:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def build_load(directory: Path) -> Path:
    """Compile the client and server."""
    directory.mkdir(parents=True, exist_ok=True)
    load = directory / "load"
    source = Path(__file__).with_name("load.c")
    subprocess.run(["clang", "-O2", "-pthread", "-o", str(load), str(source)], check=True)
    return load


def main(directory: Path, rounds: int = 40, count: int = 600) -> dict[str, Any]:
    """Measure all variants and print a table per mode."""
    set_up()
    load = build_load(directory)
    results: dict[str, Any] = {}
    with ExitStack() as stack:
        clean = stack.enter_context(Row("clean", load))
        variants = [Variant("direct", clean, BACKEND, PORT, None)]
        hooked = {size: stack.enter_context(Hooked(size)) for size in SIZES}
        for size, hook in hooked.items():
            variants.append(
                Variant(f"hook {size}", clean, rules.TESTED_VIP, rules.PORT, hook.cgroup)
            )
        established = list(variants)
        for kind, rules_of, command in (
            ("iptables", rules.iptables, ["iptables-legacy-restore"]),
            ("nftables", rules.nftables, ["nft", "-f", "-"]),
        ):
            for size in SIZES:
                row = stack.enter_context(Row(f"{kind[:3]}{size}", load))
                print(f"installing {kind} rules of {size} Services", flush=True)
                row.run("n", command, stdin=rules_of(shape(size)))
                variant = Variant(f"{kind} {size}", row, rules.TESTED_VIP, rules.PORT, None)
                variants.append(variant)
        for mode, of, n, figure, title in (
            ("tcp", variants, count, "per_s", "TCP connect + close"),
            ("udp", established, 20 * count, "per_s", "UDP send, one unconnected socket"),
            ("rr", established, 4 * count, "per_s", "request/response, established"),
            ("stream", established, 400, "mb_per_s", "throughput, established"),
        ):
            samples = interleave(of, load, mode, n, rounds)
            results[mode] = summarise(title, samples, figure)
        results["program_ns"] = program_cost(hooked[SIZES[-1]], clean, load)
    save(directory, "connect", results)
    return results


def program_cost(hooked: Hooked, row: Row, load: Path) -> dict[str, float]:
    """Time of connect4 with and without the origin, and for a destination of no concern."""

    def dial(hook: Hooked, address: str, port: int) -> Any:
        argv = [str(load), "tcp", address, str(port), "3000"]
        return lambda: row.run("c", argv, cgroup=hook.cgroup)

    def least(hook: Hooked, address: str, port: int) -> float:
        return min(hook.program_ns("kpb_connect4", dial(hook, address, port)) for _ in range(7))

    with Hooked(SIZES[-1] - 1, ConfigFlags(0)) as plain:
        costs = {
            "of no concern": least(hooked, BACKEND, PORT),
            "without origin": least(plain, rules.TESTED_VIP, rules.PORT),
            "with origin": least(hooked, rules.TESTED_VIP, rules.PORT),
        }
    rows = [[name, value] for name, value in costs.items()]
    print(table("connect4, ns per run (statistics included)", ["case", "ns"], rows))
    return costs


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".build/bench"))
