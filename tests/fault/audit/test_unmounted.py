# SPDX-License-Identifier: Apache-2.0
"""A BPF file system that goes away under the proxy comes back, or that is told."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest

from kubeproxy_bpf.dataplane.pinning import on_host
from tests.fault.audit.conftest import connecting, logged
from tests.fault.load.stage import Stage

pytestmark = pytest.mark.root


@contextmanager
def own_bpffs(stage: Stage) -> Iterator[Path]:
    """A BPF file system for node1 alone, over one that is none; the proxy starts on it."""
    path = stage.sandbox.pin_path("node1")
    stage.end_proxies()
    for kind in ("tmpfs", "bpf"):
        subprocess.run(["mount", "-t", kind, kind, path], check=True)
    try:
        yield path
    finally:
        stage.end_proxies()
        while subprocess.run(["umount", "--lazy", path], stderr=subprocess.DEVNULL).returncode == 0:
            continue


def test_an_unmounted_bpf_file_system(stage: Stage, long: bool) -> None:
    """The proxy serves on; it mounts another where one outlives it, and else says what is lost."""
    for pins in ("auto", "on") if long else ("auto",):
        with own_bpffs(stage) as path:
            stage.start_and_await(f"--bpf-pins={pins}")
            unmount(stage, path, told=pins == "auto" and not on_host())


def unmount(stage: Stage, path: Path, told: bool) -> None:
    """``told``: that is all that the proxy can do until somebody mounts another."""
    since = len(stage.log())
    with connecting(stage) as client:
        subprocess.run(["umount", "--lazy", path], check=True)
        if told:
            stage.until(lambda: logged(stage, since, "end with this process"))
            subprocess.run(["mount", "-t", "bpf", "bpf", path], check=True)
        stage.until(lambda: logged(stage, since, "pins_put_back"))
        assert (path / "links" / "kpb_connect4").exists()
    assert client.failures == []
    assert len(logged(stage, since, "pins_lost")) == told, "it is told once"
