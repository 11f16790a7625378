# SPDX-License-Identifier: Apache-2.0
"""What a process and its instance have in use at a moment: read from the kernel and /metrics."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import socket
import time
from functools import partial
from pathlib import Path

from kubeproxy_bpf.dataplane.attachments import LinkTable
from kubeproxy_bpf.dataplane.inventory import maps_left
from kubeproxy_bpf.dataplane.owned import Owned, Owner
from kubeproxy_bpf.dataplane.settings import netns_cookie
from kubeproxy_bpf.sandbox import namespace
from kubeproxy_bpf.sandbox.cluster import Sandbox

NODE = "node1"
_METRICS_PORT = 10249
_ENTRIES = re.compile(r'^kubeproxy_bpf_map_entries\{map="(\w+)"\} ([0-9.e+]+)$', re.MULTILINE)
_WAITING = re.compile(r"^(\d+) tasks$", re.MULTILINE)


class Readings:
    """Samples the proxy of a node; ``--profiling`` tells its tasks."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._pins = sandbox.pin_path(NODE)
        digest = hashlib.sha256(str(self._pins).encode()).digest()
        cookie = namespace.call(sandbox.layout.netns(NODE), netns_cookie)
        self._owner = Owner(int.from_bytes(digest[:8], "little"), cookie)

    def sample(self) -> dict[str, float]:
        """Everything at this moment; raises OSError while no proxy answers."""
        (pid,) = self._sandbox.proxy_pids(NODE)
        found = {"age_s": _age_s(pid), **_process(pid), **self._kernel()}
        metrics = self._get("/metrics")
        found |= {name: float(value) for name, value in _ENTRIES.findall(metrics)}
        tasks = _WAITING.search(self._get("/debug/pprof/tasks"))
        assert tasks, "the proxy runs without --profiling"
        return found | {"tasks": float(tasks[1])}

    def _kernel(self) -> dict[str, float]:
        owned = Owned(self._owner)
        table = LinkTable(owned)
        return {
            "programs": len(owned.programs()),
            "maps": len(maps_left(owned)),
            "links": len(table.all) + len(table.dead),
            "pins": sum(len(files) for _, _, files in os.walk(self._pins)),
        }

    def _get(self, path: str) -> str:
        address = ("127.0.0.1", _METRICS_PORT)
        connection = http.client.HTTPConnection(*address, timeout=10)
        try:
            connection.sock = namespace.call(
                self._sandbox.layout.netns(NODE), partial(socket.create_connection, address, 10)
            )
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()


def _process(pid: int) -> dict[str, float]:
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(re.findall(r"^(\w+):\s+(\d+)", status, re.MULTILINE))
    return {
        "rss_mb": int(fields["VmRSS"]) / 1024,
        "anon_mb": int(fields["RssAnon"]) / 1024,
        "threads": int(fields["Threads"]),
        "fds": len(os.listdir(f"/proc/{pid}/fd")),
    }


def _age_s(pid: int) -> float:
    text = Path(f"/proc/{pid}/stat").read_text()
    ticks = int(text.rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
