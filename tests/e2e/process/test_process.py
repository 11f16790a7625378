# SPDX-License-Identifier: Apache-2.0
"""The kube-proxy command as an operator meets it: flags, exit codes, signals, health, the log."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from kubeproxy_bpf.dataplane.mounts import ensure_bpffs, find_cgroup_root

PROGRAM = str(Path(sys.executable).with_name("kube-proxy"))
LEAVE_SYSCTLS = (
    "--conntrack-max-per-core=0",
    "--conntrack-tcp-timeout-established=0",
    "--conntrack-tcp-timeout-close-wait=0",
)
"""These processes run in the machine's own network namespace."""


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *argv], capture_output=True, text=True, timeout=60)


def test_help_and_version_end_with_zero():
    """Neither needs root, a cluster or a kernel feature."""
    done = run("--help")
    assert 0 == done.returncode
    assert "--hostname-override" in done.stdout
    done = run("--version")
    assert 0 == done.returncode
    assert done.stdout.startswith("Kubernetes v1.")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--no-such-flag"], "Error: unknown flag: --no-such-flag"),
        (["--proxy-mode=x", "--cluster-cidr=y"], "Configuration.ClusterCIDRs[0]: Invalid"),
        (["serve"], 'Error: "kube-proxy" does not take any arguments, got ["serve"]'),
    ],
)
def test_a_bad_command_line_ends_with_one_and_the_usage(argv, words):
    """As kube-proxy: usage, then what is wrong, on standard error."""
    done = run(*argv)
    assert 1 == done.returncode
    assert words in done.stderr
    assert "Usage:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.root
@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--kubeconfig=/nonexistent"], "/nonexistent"),
        (["--master=http://127.0.0.1:9", "--bpf-cgroup-root=/nonexistent"], "/nonexistent"),
    ],
)
def test_what_cannot_work_is_one_logged_error(argv, words, tmp_path):
    """A missing file or cgroup ends the process with 1 and a sentence, not a trace."""
    pins = Path(f"/sys/fs/bpf/kpbt-process-{os.getpid()}")
    ensure_bpffs(pins.parent)
    try:
        own = [f"--bpf-pin-path={pins}", "--healthz-bind-address=127.0.0.1:29999"]
        done = run(*argv, *own, *LEAVE_SYSCTLS)
    finally:
        shutil.rmtree(pins, ignore_errors=True)
    assert 1 == done.returncode
    assert "proxy_failed" in done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


class Running:
    """A proxy process with an API server of its own, on a control group of its own."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.cgroup = find_cgroup_root() / f"kpbt-process-{os.getpid()}"
        self.cgroup.mkdir()
        self.pins = Path(f"/sys/fs/bpf/kpbt-process-{os.getpid()}")
        ensure_bpffs(self.pins)
        self.log = directory / "proxy.log"
        port_file = directory / "port"
        self.api = subprocess.Popen(
            [sys.executable, "-m", "kubeproxy_bpf.sandbox.apiserver", "--listen", "127.0.0.1:0"]
            + ["--bulk", "5x2", "--port-file", str(port_file)],
            stdout=subprocess.DEVNULL,
        )
        self.until(lambda: port_file.exists() and port_file.read_text().strip())
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.health_port = free.getsockname()[1]
        self.master = f"http://127.0.0.1:{port_file.read_text().strip()}"
        argv = [PROGRAM, f"--master={self.master}"]
        argv += ["--hostname-override=node-000", f"--bpf-cgroup-root={self.cgroup}"]
        # The machine's own uplink is no concern of a test: none is called this.
        argv += ["--bpf-devices=no-such-device", *LEAVE_SYSCTLS]
        argv += [f"--bpf-pin-path={self.pins}", "--logging-format=json"]
        argv += [f"--healthz-bind-address=127.0.0.1:{self.health_port}"]
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.metrics_port = free.getsockname()[1]
        argv += [f"--metrics-bind-address=127.0.0.1:{self.metrics_port}", *flags]
        with self.log.open("wb") as log:
            self.proxy = subprocess.Popen(argv, stderr=log)

    def close(self) -> None:
        for process in (self.proxy, self.api):
            process.kill()
            process.wait()
        shutil.rmtree(self.pins, ignore_errors=True)
        self.until(self._removed)

    def _removed(self) -> bool:
        try:
            self.cgroup.rmdir()
        except OSError:
            return False
        return True

    @staticmethod
    def until(condition, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def get(self, path: str) -> tuple[int, dict]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}{path}") as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except OSError:
            return 0, {}

    def events(self) -> list[dict]:
        lines = self.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.fixture
def running(tmp_path):
    # The score is one that anybody may give himself.
    running = Running(tmp_path, "--oom-score-adj=500")
    try:
        yield running
    finally:
        running.close()


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_leaves_the_datapath(running, number):
    """Ready after the first sync; a signal ends it with 0; maps and links stay pinned.

    Its OOM score is set before health is served, in kube-proxy's order [K7].
    """
    running.until(lambda: running.get("/livez")[0] == 200)
    assert "500" == Path(f"/proc/{running.proxy.pid}/oom_score_adj").read_text().strip()
    running.until(lambda: running.get("/healthz")[0] == 200)
    status, body = running.get("/livez")
    assert 200 == status
    assert "nodeEligible" not in body
    with urllib.request.urlopen(f"http://127.0.0.1:{running.metrics_port}/metrics") as answer:
        metrics = answer.read().decode()
    assert "kubeproxy_bpf_service_ports 5.0" in metrics
    assert 'kubeproxy_bpf_verdicts_total{reason="translated"}' in metrics

    running.proxy.send_signal(number)
    assert 0 == running.proxy.wait(timeout=30)

    names = [event["event"] for event in running.events()]
    order = ["proxy_started", "datapath_loaded", "first_sync_finished", "hooks_attached"]
    assert order == [name for name in names if name in order]
    assert "hooks_proved" in names
    assert "proxy_stopped" == names[-1]
    pins = [path.name for path in (running.pins / "links").iterdir()]
    assert 11 == len([name for name in pins if name.startswith("kpb_")])
    assert "dev-1-ingress" in pins
    assert list(running.pins.glob("*/kpb_frontends"))
