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
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from report import save, table

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.dataplane import layout
from kubeproxy_bpf.dataplane.mounts import ensure_bpffs, find_cgroup_root
from kubeproxy_bpf.instance import object_path
from kubeproxy_bpf.libbpf import BpfMap, BpfObject
from kubeproxy_bpf.log import set_up
from kubeproxy_bpf.plan.records import Frontend, FrontendKey
from kubeproxy_bpf.sandbox.apiserver import bulk

TIMEOUT_S = 120.0
LINKS = "links"
START = """import sys
sys.modules["rich"] = None  # which a linter brings, structlog imports, and no image has
from kubeproxy_bpf.cli import main
sys.exit(main())"""
LOOK_S = 50e-6
SO_TIMESTAMPNS = 35


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
        command = [sys.executable, "-c", START]
        command += ["--master", f"http://127.0.0.1:{api.port}", "--hostname-override", "node-000"]
        command += ["--bpf-cgroup-root", str(self.cgroup), "--bpf-pin-path", str(self.pins)]
        # The machine's own uplink is no part of this: none is called so.
        command += ["--bpf-devices", "no-such-device"]
        # Nor are its sysctls.
        command += ["--conntrack-max-per-core", "0"]
        command += [f"--conntrack-tcp-timeout-{state}=0" for state in ("established", "close-wait")]
        command += ["--healthz-bind-address", f"127.0.0.1:{health}"]
        with BpfObject.open(object_path("kube_proxy.bpf.o")) as opened:
            self.programs = len(opened.programs)
        # Compiled modules are what an image ships.
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

    def hooked(self) -> bool:
        """Whether the programs are at work."""
        links = self.pins / LINKS
        return len(list(links.glob("kpb_*"))) == self.programs

    def cpu_s(self) -> float:
        """CPU of all threads, to the nanosecond: the process's clock, as clock_getcpuclockid(3)."""
        return time.clock_gettime(~self.process.pid << 3 | 2)

    def memory_mb(self, name: str) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
        return int(match.group(1)) / 1024 if match else 0.0

    def maps_mb(self) -> float:
        """Memory charged for the maps (memlock of their descriptors)."""
        total = 0
        for path in self.pins.glob("*/kpb_*"):
            if path.parent.name == LINKS:
                continue
            with BpfMap.open_pinned(path) as opened:
                info = Path(f"/proc/self/fdinfo/{opened.fd}").read_text()
            total += int(dict(line.split(":") for line in info.splitlines())["memlock"])
        return total / 2**20


class Watcher:
    """What a client sees: the word of a service in the maps, and the event on a watch.

    One thread, which sleeps between looks at the word: on two processors a busy one would take its
    share from the proxy. When the event came is the kernel's time stamp of our own watch's bytes.
    """

    def __init__(self, proxy: Proxy, api: ApiServer, index: int) -> None:
        self.api = api
        self.path = f"/apis/discovery.k8s.io/v1/namespaces/{bulk.NAMESPACE}/endpointslices/"
        self.path += bulk.slice_name(index)
        self.object = api.request("GET", self.path)
        self.offset = 8 * _service_index(proxy, index)
        with proxy.map("kpb_services") as services:
            self.words = services.mmap(writable=False)
        self.watch = self._open_watch(index)

    def close(self) -> None:
        self.watch.close()
        self.words.close()

    def word(self) -> int:
        return int(struct.unpack_from("=Q", self.words, self.offset)[0])

    def change_once(self, number: int) -> tuple[float, float]:
        """Change one endpoint; seconds from the event, and from the request, to the maps."""
        self.object["endpoints"][0]["addresses"] = [f"10.250.{number // 250}.{number % 250 + 1}"]
        connection = http.client.HTTPConnection("127.0.0.1", self.api.port, timeout=30)
        try:
            before, begin = self.word(), time.time()
            body = json.dumps(self.object)
            connection.request("PUT", self.path, body, {"Content-Type": "application/json"})
            while self.word() == before:
                if time.time() > begin + 10:
                    raise RuntimeError("the change never arrived")
                time.sleep(LOOK_S)
            programmed = time.time()
            self.object = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return max(0.0, programmed - self._event_time()), programmed - begin

    def _open_watch(self, index: int) -> socket.socket:
        query = f"watch=true&fieldSelector=metadata.name%3D{bulk.slice_name(index)}"
        query += f"&resourceVersion={self.object['metadata']['resourceVersion']}"
        watch = socket.create_connection(("127.0.0.1", self.api.port), timeout=30)
        watch.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        path = self.path.rpartition("/namespaces/")[0]
        watch.sendall(f"GET {path}/endpointslices?{query} HTTP/1.1\r\nHost: api\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += watch.recv(65536)
        assert head.startswith(b"HTTP/1.1 200 "), head
        return watch

    def _event_time(self) -> float:
        """When the first bytes of the event came; takes in all of it."""
        first, version = 0.0, self.object["metadata"]["resourceVersion"]
        event = b""
        while f'"resourceVersion":"{version}"'.encode() not in event.replace(b" ", b""):
            piece, ancillary, _, _ = self.watch.recvmsg(2**20, 64)
            seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
            first = first or seconds + nanoseconds / 1e9
            event += piece
        return first


def _service_index(proxy: Proxy, index: int) -> int:
    """Where the word of a bench Service is, by the frontend that leads to it."""
    with BpfObject.open(object_path("kube_proxy.bpf.o")) as opened:
        key = layout.bind(opened.btf, "frontend_key", FrontendKey)
        value = layout.bind(opened.btf, "frontend", Frontend)
    vip = parse_address(bulk.cluster_ip(index))
    assert vip is not None
    with proxy.map("kpb_frontends") as frontends:
        entry = frontends.lookup(key.encode(FrontendKey(vip, bulk.PORT, socket.IPPROTO_TCP)))
    assert entry is not None, f"{bulk.service_name(index)} is not programmed"
    return int(value.decode(entry).service)


def measure(shape: bulk.Shape, changes: int) -> dict[str, Any]:
    """One start and a series of changes on a cluster of this shape."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        api = stack.enter_context(closing(ApiServer(shape, directory)))
        proxy = stack.enter_context(closing(Proxy(api, directory)))
        # The hooks come after the first sync, so the last of them tells that all is programmed.
        _until(proxy.hooked, "the first sync", proxy)
        result: dict[str, Any] = {
            "services": shape.services,
            "endpoints": shape.services * shape.endpoints,
            "start_s": time.monotonic() - proxy.begin,
            "cpu_s": proxy.cpu_s(),
            "peak_rss_mb": proxy.memory_mb("VmHWM"),
            "maps_mb": proxy.maps_mb(),
        }
        with proxy.map("kpb_frontends") as frontends:
            assert sum(1 for _ in frontends.keys()) >= shape.services, "not all is programmed"
        time.sleep(1.0)
        result["rss_mb"] = proxy.memory_mb("VmRSS")
        watcher = stack.enter_context(closing(Watcher(proxy, api, shape.services // 2)))
        before = proxy.cpu_s()
        samples = [watcher.change_once(number) for number in range(changes)]
        result["cpu_per_change_ms"] = (proxy.cpu_s() - before) / changes * 1e3
        for name, values in zip(("event", "request"), zip(*samples)):
            result[f"{name}_to_maps_ms"] = _percentiles(values)
        return result


def _percentiles(values: tuple[float, ...]) -> dict[str, float]:
    ordered = sorted(value * 1e3 for value in values)
    return {
        "min": ordered[0],
        "p50": statistics.median(ordered),
        "p99": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
    }


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
        time.sleep(0.01)


def main(directory: Path, rounds: int = 3, changes: int = 200) -> list[dict[str, Any]]:
    """Measure all sizes several times and print the best of each figure's rounds."""
    set_up()
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
