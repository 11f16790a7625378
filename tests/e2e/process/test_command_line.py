# SPDX-License-Identifier: Apache-2.0
"""The real kube-proxy command: what it prints, where, and how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Iterator

import pytest
import yaml

from kubeproxy_bpf.dataplane.mounts import ensure_bpffs, find_cgroup_root

PROGRAM = str(Path(sys.executable).with_name("kube-proxy"))
KUBEADM = Path(__file__).parents[2] / "unit" / "config" / "data" / "kubeadm-config.conf"
HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"


def run(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *argv],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """The help into a pipe that nobody reads any more ends without a traceback, as in Go."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run([PROGRAM, "--help"], stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert (-signal.SIGPIPE, b"") == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("argv", "problems"),
    [
        (["--no-such-flag"], ["unknown flag: --no-such-flag"]),
        (["-x"], ["unknown shorthand flag: 'x' in -x"]),
        (["--config"], ["flag needs an argument: --config"]),
        (["serve"], ['"kube-proxy" does not take any arguments, got ["serve"]']),
        (["--cleanup-ipvs"], ["unknown flag: --cleanup-ipvs"]),
        (
            ["--v=high"],
            [
                'invalid argument "high" for "-v, --v" flag: '
                'strconv.ParseUint: parsing "high": invalid syntax'
            ],
        ),
        (
            ["--feature-gates=Nonsense=true", "--cleanup", "--oom-score-adj=5000"],
            [
                "KubeProxyConfiguration.featureGates: unrecognized feature gate: Nonsense",
                "KubeProxyConfiguration.KubeProxyLinuxConfiguration.OOMScoreAdj: "
                "Invalid value: 5000: must be within the range [-1000, 1000]",
            ],
        ),
        (["--init-only", "--bpf-pins=never"], ['--bpf-pins: "never" is none of auto, on, off']),
    ],
)
def test_what_does_not_hold_is_told_after_the_usage(argv: list[str], problems: list[str]) -> None:
    """All of it, on standard error, with exit code 1 and nothing done."""
    done = run(*argv)

    assert (1, "") == (done.returncode, done.stdout)
    usage, *errors = done.stderr.split("Error: ")
    assert usage.startswith("Usage:\n  kube-proxy [flags]\n")
    assert problems == [error.rstrip("\n") for error in errors]


def test_a_file_that_does_not_hold_is_told_with_its_path(tmp_path: Path) -> None:
    """As flags are."""
    path = tmp_path / "config.conf"
    path.write_text(f"{HEAD}mode: 7\noomScoreAdj: much\n")

    done = run(f"--config={path}")

    assert 1 == done.returncode
    assert f"Error: --config {path}: mode: " in done.stderr
    assert f"Error: --config {path}: oomScoreAdj: " in done.stderr


def test_help_goes_to_standard_output() -> None:
    """With every flag that is not deprecated, and exit code 0."""
    for word in ("--help", "-h"):
        done = run(word)
        assert (0, "") == (done.returncode, done.stderr)
        assert "\n  -v, --v Level" in done.stdout
        assert "--healthz-port" not in done.stdout


def test_the_version_is_that_of_kubernetes_for_scripts() -> None:
    """And our own behind it; a version that is given does not end the process."""
    assert run("--version").stdout.startswith("Kubernetes v1.36.")
    assert run("--version=raw").stdout.startswith('version.Info{Major:"1", Minor:"36", ')
    done = run("--version=v9.9.9", "--no-such-flag")
    assert (1, "") == (done.returncode, done.stdout)


def test_deprecated_flags_are_told_and_work(tmp_path: Path) -> None:
    """pflag's line, and the port in effect."""
    written = tmp_path / "written"

    done = run("--healthz_port", "7", "--healthz-bind-address=::1", f"--write-config-to={written}")

    assert 0 == done.returncode
    assert done.stderr.startswith("Flag --healthz-port has been deprecated, ")
    assert "[::1]:7" == yaml.safe_load(written.read_text())["healthzBindAddress"]


def test_the_configuration_in_effect_can_be_written(tmp_path: Path) -> None:
    """From kubeadm's own file; what is written says the same when it is read."""
    first, second = tmp_path / "first", tmp_path / "second"

    done = run(f"--config={KUBEADM}", "--hostname-override=n", f"--write-config-to={first}")
    assert 0 == done.returncode
    assert 0 == run(f"--config={first}", f"--write-config-to={second}").returncode

    document = yaml.safe_load(first.read_text())
    assert ("iptables", "ClusterCIDR") == (document["mode"], document["detectLocalMode"])
    assert "1h0m0s" == document["conntrack"]["tcpCloseWaitTimeout"]
    assert {**document, "hostnameOverride": ""} == {
        **yaml.safe_load(second.read_text()),
        "hostnameOverride": "",
    }


def test_nothing_is_written_that_does_not_hold(tmp_path: Path) -> None:
    """Validation comes first; a path that cannot be written is an error of its own."""
    written = tmp_path / "written"

    assert 1 == run("--proxy-mode=x", f"--write-config-to={written}").returncode
    assert not written.exists()
    done = run(f"--write-config-to={tmp_path}")
    assert 1 == done.returncode
    assert "proxy_failed" in done.stderr and "Traceback" not in done.stderr


def test_settings_without_effect_are_one_line_each(tmp_path: Path) -> None:
    """From flags, file and environment, when the log begins."""
    path = tmp_path / "config.conf"
    path.write_text(f"{HEAD}ipvs: {{scheduler: lc}}\nudpIdleTimeout: 1s\n")

    done = run(
        f"--config={path}",
        "--boot-id-file=x",
        "--proxy-mode=ipvs",
        f"--write-config-to={tmp_path / 'written'}",
        GOGC="50",
    )

    lines = [line for line in done.stderr.splitlines() if "setting_without_effect" in line]
    assert 3 == len(lines)
    assert "flags_replaced_by_config" in done.stderr
    assert "config_decoded_leniently" in done.stderr


class Running:
    """A proxy in a network namespace of its own, without an API server that answers."""

    def __init__(self, directory: Path) -> None:
        name = f"kpbt-config-{os.getpid()}"
        self._cgroup = find_cgroup_root() / name
        self._cgroup.mkdir()
        self._pins = Path("/sys/fs/bpf") / name
        ensure_bpffs(self._pins)
        self.mount = directory / "mount"
        self.config = self.mount / "config.conf"
        self._log = directory / "log"
        self.mount.mkdir()
        self.update("first")
        argv = [PROGRAM, f"--config={self.config}", "--master=http://127.0.0.1:9"]
        argv += ["--hostname-override=n1", f"--bpf-cgroup-root={self._cgroup}"]
        argv += [f"--bpf-pin-path={self._pins}", f"--bpf-state-path={directory}/state"]
        argv += ["--bpf-takeover=off", "--bpf-forward-accept=off"]
        up = 'ip link set lo up && exec "$@"'
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "--net", "sh", "-c", up, "sh", *argv], stderr=log
            )

    def update(self, name: str) -> None:
        """Write the ConfigMap as the kubelet does: a new directory, and a link that is swapped."""
        new, link = self.mount / f"..{name}", self.mount / "..data"
        old = self.mount / os.readlink(link) if link.exists() else None
        new.mkdir()
        text = f"{HEAD}conntrack: {{maxPerCore: 0, tcpCloseWaitTimeout: 0s}}\n"
        (new / "config.conf").write_text(text)
        (self.mount / "..data_tmp").symlink_to(new.name)
        (self.mount / "..data_tmp").rename(link)
        if old is None:
            self.config.symlink_to("..data/config.conf")
        else:
            shutil.rmtree(old)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self._pins, ignore_errors=True)
        self.until(self._removed)

    def log(self) -> str:
        return self._log.read_text()

    def _removed(self) -> bool:
        try:
            self._cgroup.rmdir()
        except OSError:
            return False
        return True

    @staticmethod
    def until(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    try:
        running.until(lambda: "health_served" in running.log() or running.process.poll())
        yield running
    finally:
        running.close()


@pytest.mark.root
def test_a_change_of_the_file_ends_the_process(running: Running) -> None:
    """With exit code 1, so that whoever runs it starts it anew with what is written there."""
    with running.config.open("a") as file:
        file.write("mode: nftables\n")

    assert 1 == running.process.wait(timeout=30)
    assert f"the configuration file {running.config} was changed" in running.log()
    assert "Traceback" not in running.log()


@pytest.mark.root
def test_an_edited_config_map_waits_for_the_next_start(running: Running) -> None:
    """As with kube-proxy: nodes do not restart all at once; the log says what is missed."""
    running.update("second")
    running.until(lambda: "config_replaced" in running.log())

    running.process.terminate()
    assert 0 == running.process.wait(timeout=30)
    assert "proxy_failed" not in running.log()
