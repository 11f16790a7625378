# SPDX-License-Identifier: Apache-2.0
"""Control plane: start to fully programmed, and one endpoint change, at several cluster sizes.

The API server is a process of its own that holds pre-rendered objects; its CPU is not ours. The
proxy is the real command, on maps and a control group of its own. "Programmed" is read from the
kernel's maps, not taken from the proxy's word.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from report import save, table

from kubeproxy_bpf.dataplane import layout
from kubeproxy_bpf.dataplane.mounts import ensure_bpffs, find_cgroup_root
from kubeproxy_bpf.libbpf import BpfMap, BpfObject
from kubeproxy_bpf.plan.records import Frontend, FrontendKey
from kubeproxy_bpf.sandbox.apiserver import bulk

CLK_TCK = os.sysconf("SC_CLK_TCK")
TIMEOUT_S = 120.0


class ApiServer:
    """The embedded API server, filled with a cluster, as a process."""

    def __init__(self, shape: bulk.Shape, directory: Path) -> None:
        self.shape = shape
        port_file = directory / "port"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kubeproxy_bpf.sandbox.apiserver", "--listen", "127.0.0.1:0"]
            + ["--bulk", f"{shape.services}x{shape.endpoints}", "--port-file", str(port_file)],
            stdout=subprocess.DEVNULL,
        )
        _until(lambda: port_file.exists() and port_file.read_text().strip() != "", "API server")
        self.port = int(port_file.read_text())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def request(self, method: str, path: str, body: Any = None, kind: str = "") -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, payload, {"Content-Type": kind or "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]!r}")
            return json.loads(text)
        finally:
            connection.close()


class Proxy:
    """A real kube-proxy on a control group and a pin directory of its own."""

    def __init__(self, api: ApiServer, directory: Path) -> None:
        self.cgroup = find_cgroup_root() / f"kpbbench-{os.getpid()}"
        self.cgroup.mkdir()
        self.pins = Path(f"/sys/fs/bpf/kpbbench-{os.getpid()}")
        ensure_bpffs(self.pins)
        with socket.create_server(("127.0.0.1", 0)) as free:
            health = free.getsockname()[1]
        command = [str(Path(sys.executable).with_name("kube-proxy"))]
        command += ["--master", f"http://127.0.0.1:{api.port}", "--hostname-override", "node-000"]
        command += ["--bpf-cgroup-root", str(self.cgroup), "--bpf-pin-path", str(self.pins)]
        command += ["--healthz-bind-address", f"127.0.0.1:{health}"]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self.begin = time.monotonic()
        self.log = (directory / "proxy.log").open("wb")
        self.process = subprocess.Popen(command, env=environment, stderr=self.log)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.pins, ignore_errors=True)
        _until(lambda: _removed(self.cgroup), "control group to be empty")

    def map(self, name: str) -> BpfMap:
        return BpfMap.open_pinned(next(self.pins.glob(f"*/{name}")))

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLK_TCK

    def memory_mb(self, name: str) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
        return int(match.group(1)) / 1024 if match else 0.0

    def maps_mb(self) -> float:
        """Memory charged for the maps (memlock of their descriptors)."""
        total = 0
        for path in self.pins.glob("*/kpb_*"):
            with BpfMap.open_pinned(path) as opened:
                info = Path(f"/proc/self/fdinfo/{opened.fd}").read_text()
                total += int(re.search(r"^memlock:\s+(\d+)", info, re.MULTILINE)[1])  # type: ignore[index]
        return total / 2**20


class Watcher:
    """What a client sees: the word of a service in the maps, and the event on a watch."""

    def __init__(self, proxy: Proxy, api: ApiServer, index: int) -> None:
        self.api = api
        self.slice = bulk.slice_name(index)
        with BpfObject.open(_object()) as opened:
            key = layout.bind(opened.btf, "frontend_key", FrontendKey)
            value = layout.bind(opened.btf, "frontend", Frontend)
        vip = b"\0" * 10 + b"\xff\xff" + socket.inet_aton(bulk.cluster_ip(index))
        with proxy.map("kpb_frontends") as frontends:
            entry = frontends.lookup(key.encode(FrontendKey(vip, bulk.PORT, socket.IPPROTO_TCP)))
            assert entry is not None, f"{bulk.service_name(index)} is not programmed"
            self.offset = 8 * value.decode(entry).service
        with proxy.map("kpb_services") as services:
            self.words = services.mmap(writable=False)

    def word(self) -> int:
        return int(struct.unpack_from("=Q", self.words, self.offset)[0])

    def event_time(self, ready: threading.Event, seen: list[float]) -> None:
        """Note when the next event of the slice comes out of a watch of our own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.api.port, timeout=30)
        path = "/apis/discovery.k8s.io/v1/endpointslices?watch=true&fieldSelector="
        connection.request(
            "GET", f"{path}metadata.name%3D{self.slice}&resourceVersion={self.version}"
        )
        answer = connection.getresponse()
        ready.set()
        answer.readline()
        seen.append(time.monotonic())
        connection.close()

    def change_once(self, number: int) -> tuple[float, float]:
        """Change one endpoint; seconds from the event, and from the request, to the maps."""
        path = f"/apis/discovery.k8s.io/v1/namespaces/bench/endpointslices/{self.slice}"
        current = self.api.request("GET", path)
        self.version = current["metadata"]["resourceVersion"]
        current["endpoints"][0]["addresses"] = [f"10.250.{number // 250}.{number % 250 + 1}"]
        ready, seen = threading.Event(), []
        thread = threading.Thread(target=self.event_time, args=(ready, seen))
        thread.start()
        ready.wait()
        before = self.word()
        begin = time.monotonic()
        sender = threading.Thread(target=self.api.request, args=("PUT", path, current))
        sender.start()
        deadline = begin + 10
        while self.word() == before and time.monotonic() < deadline:
            time.sleep(0)
        programmed = time.monotonic()
        assert programmed < deadline, "the change never arrived"
        sender.join()
        thread.join()
        return max(0.0, programmed - seen[0]), programmed - begin


def measure(shape: bulk.Shape, changes: int) -> dict[str, Any]:
    """One start and a series of changes on a cluster of this shape."""
    with tempfile.TemporaryDirectory() as name, _closing(ApiServer(shape, Path(name))) as api:
        with _closing(Proxy(api, Path(name))) as proxy:
            _until(lambda: _entries(proxy) >= shape.services, "the first sync", proxy)
            start_s, cpu_s = time.monotonic() - proxy.begin, proxy.cpu_s()
            result: dict[str, Any] = {
                "services": shape.services,
                "endpoints": shape.services * shape.endpoints,
                "start_s": start_s,
                "cpu_s": cpu_s,
                "peak_rss_mb": proxy.memory_mb("VmHWM"),
                "maps_mb": proxy.maps_mb(),
            }
            time.sleep(1.0)
            result["rss_mb"] = proxy.memory_mb("VmRSS")
            watcher = Watcher(proxy, api, shape.services // 2)
            before = proxy.cpu_s()
            samples = [watcher.change_once(number) for number in range(changes)]
            result["cpu_per_change_ms"] = (proxy.cpu_s() - before) / changes * 1e3
            for name_, values in zip(("event", "request"), zip(*samples)):
                result[f"{name_}_to_maps_ms"] = _percentiles(values)
            return result


def _entries(proxy: Proxy) -> int:
    try:
        with proxy.map("kpb_frontends") as frontends:
            return sum(1 for _ in frontends.keys())
    except (StopIteration, OSError):
        return 0


def _percentiles(values: tuple[float, ...]) -> dict[str, float]:
    ordered = sorted(value * 1e3 for value in values)
    return {
        "min": ordered[0],
        "p50": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
    }


def _object() -> Path:
    import kubeproxy_bpf

    return Path(kubeproxy_bpf.__file__).with_name("obj") / "kube_proxy.bpf.o"


@contextmanager
def _closing(thing: Any) -> Iterator[Any]:
    try:
        yield thing
    finally:
        thing.close()


def _removed(path: Path) -> bool:
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _until(condition: Any, what: str, proxy: Proxy | None = None) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline or (proxy and proxy.process.poll() is not None):
            raise RuntimeError(f"waited in vain for {what}")
        time.sleep(0.02)


def main(directory: Path, rounds: int = 3, changes: int = 200) -> list[dict[str, Any]]:
    """Measure all sizes several times and print the best of each figure's rounds."""
    results = []
    for shape in (bulk.Shape(1000, 10), bulk.Shape(10000, 10)):
        for number in range(rounds):
            print(f"control plane: {shape.services} Services, round {number + 1}", flush=True)
            results.append(measure(shape, changes))
    rows = [
        [
            f"{r['services']} x {r['endpoints'] // r['services']}",
            r["start_s"],
            r["cpu_s"],
            r["peak_rss_mb"],
            r["maps_mb"],
            r["event_to_maps_ms"]["p50"],
            r["event_to_maps_ms"]["p99"],
            r["request_to_maps_ms"]["p99"],
            r["cpu_per_change_ms"],
        ]
        for r in results
    ]
    columns = ["cluster", "start s", "CPU s", "peak RSS MB", "maps MB"]
    columns += ["change p50 ms", "p99 ms", "from request p99 ms", "CPU/change ms"]
    print(table("Control plane", columns, rows))
    save(directory, "control", {"rounds": results})
    return results


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".build/bench"))
