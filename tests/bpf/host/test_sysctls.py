# SPDX-License-Identifier: Apache-2.0
"""Sysctls of connection tracking in a network namespace: those that can be set are, others told.

The machine's own are never written.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from kubeproxy_bpf.config.schema import ConntrackSysctls
from kubeproxy_bpf.host.sysctls import HASH_SIZE, SYSCTLS, apply_conntrack
from kubeproxy_bpf.sandbox import namespace
from tests.mounting import own_mounts

pytestmark = pytest.mark.root

READ_ONLY = """
mount -t proc proc /proc && mount -o bind,ro /proc/sys /proc/sys && exec "$@"
"""


def sysctl(scene, name):
    return int(scene.run("node", "cat", str(SYSCTLS / f"nf_conntrack_{name}")))


def test_time_outs_are_those_of_the_namespace(scene):
    """What the end-to-end test of CLOSE_WAIT reads on a node is there; the machine's stay."""
    before = {path.name: path.read_text() for path in SYSCTLS.glob("nf_conntrack_tcp_*")}
    wanted = ConntrackSysctls(0, 0, 86300.0, 3500.0, True, 61.0, 181.0)

    assert [] == scene.on_node(partial(apply_conntrack, wanted))

    names = ("tcp_timeout_established", "tcp_timeout_close_wait", "tcp_be_liberal")
    assert [86300, 3500, 1] == [sysctl(scene, name) for name in names]
    assert [61, 181] == [sysctl(scene, f"udp_timeout{end}") for end in ("", "_stream")]
    assert before == {path.name: path.read_text() for path in SYSCTLS.glob("nf_conntrack_tcp_*")}


def test_limits_of_the_machine_are_left_and_told(scene):
    """They are not this namespace's to set: no error, and all else is set."""
    limit = sysctl(scene, "max")
    buckets = HASH_SIZE.read_text()
    wanted = ConntrackSysctls(max_per_core=1, min=16 * int(buckets))

    kept = scene.on_node(partial(apply_conntrack, wanted, cpus=1))

    assert [SYSCTLS / "nf_conntrack_max", HASH_SIZE] == [item.path for item in kept]
    assert {"belongs to the initial network namespace"} == {item.reason for item in kept}
    assert (limit, buckets) == (sysctl(scene, "max"), HASH_SIZE.read_text())
    assert 3600 == sysctl(scene, "tcp_timeout_close_wait")


def test_read_only_proc_sys_is_the_end(scene):
    """As in a container without privileges: the process says which file, and ends with 1 [J10]."""
    program = Path(sys.executable).with_name("kube-proxy")
    command = [*own_mounts(), "sh", "-ec", READ_ONLY, "sh", str(program), "--init-only"]

    done = subprocess.run(
        ["nsenter", f"--net={namespace.path_of(scene.name('node'))}", *command],
        capture_output=True,
        text=True,
    )

    assert 1 == done.returncode
    assert "nf_conntrack_tcp_timeout_established cannot be set to 86400" in done.stderr
    assert "Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr


def test_read_only_proc_sys_is_no_matter_where_nothing_is_to_be_written(scene):
    """Zeros, or what an earlier --init-only wrote [J10]."""
    wanted = ConntrackSysctls(max_per_core=0)
    scene.on_node(partial(apply_conntrack, wanted))
    code = (
        "from kubeproxy_bpf.config.schema import ConntrackSysctls as C;"
        "from kubeproxy_bpf.host.sysctls import apply_conntrack as a;"
        "a(C(max_per_core=0)); a(C(0, 0, 0.0, 0.0))"
    )

    scene.run("node", *own_mounts(), "sh", "-ec", READ_ONLY, "sh", sys.executable, "-c", code)


def test_init_only_leaves_a_node_for_a_proxy_with_less(scene, tmp_path):
    """Sysctls set, programs seen by the verifier, nothing attached or pinned, exit 0."""
    pins = Path(f"/sys/fs/bpf/kpbt-init-{os.getpid()}")
    program = Path(sys.executable).with_name("kube-proxy")
    command = [str(program), "--init-only", f"--bpf-pin-path={pins}", "--bpf-pins=on"]
    command += ["--bpf-snat-ports=40000-40010", f"--bpf-state-path={tmp_path}"]
    try:
        scene.run("node", *command)

        assert [] == list(pins.iterdir())
    finally:
        pins.rmdir()
    assert 3600 == sysctl(scene, "tcp_timeout_close_wait")
    reserved = scene.run("node", "cat", "/proc/sys/net/ipv4/ip_local_reserved_ports")
    assert "40000-40010" == reserved.strip()
