# SPDX-License-Identifier: Apache-2.0
"""A sandbox leaves nothing behind, from whatever state, and touches nothing foreign."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from kubeproxy_bpf.sandbox import cgroup, namespace
from kubeproxy_bpf.sandbox.cluster import Options, Sandbox
from kubeproxy_bpf.sandbox.errors import AlreadyUp, Clash, NotUp, SandboxError
from kubeproxy_bpf.sandbox.journal import Journal, Record, directory, locked
from kubeproxy_bpf.sandbox.layout import BACKEND_PORT
from kubeproxy_bpf.sandbox.probe import Target, ask
from kubeproxy_bpf.sandbox.teardown import take_down
from tests.e2e.sandbox.conftest import PREFIX, traces

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("clean_machine")]

NETWORK_ONLY = Options(api=False, proxy=False)

_UP = """
import sys
from kubeproxy_bpf.sandbox.cluster import Options, Sandbox
Sandbox.up(sys.argv[1], "vxlan", Options(api=False, proxy=False))
"""


def _foreign_namespace(name: str) -> int:
    """A namespace that somebody else made; returns its inode."""
    namespace.prepare()
    subprocess.run(["ip", "netns", "add", name], check=True)
    return namespace.path_of(name).stat().st_ino


def test_down_leaves_nothing(clean_machine: set[str]) -> None:
    """After down, no namespace, group, mount, file, process or link of the sandbox is left."""
    with Sandbox.up(f"{PREFIX}-a", "vxlan", NETWORK_ONLY):
        assert len(traces() - clean_machine) > 10
    assert traces() == clean_machine


# One line per promise: header, 13 groups, bpffs, 10 namespaces; then links, backends, the end.
@pytest.mark.parametrize("lines", [1, 2, 8, 14, 15, 16, 20, 24, 25])
def test_down_after_a_killed_build_leaves_nothing(clean_machine: set[str], lines: int) -> None:
    """Killed at any point of its way, a build leaves only what down finds and removes."""
    name = f"{PREFIX}-killed"
    process = subprocess.Popen([sys.executable, "-c", _UP, name])
    journal = Journal(name).path
    while process.poll() is None and _lines_of(journal) < lines:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert traces() != clean_machine
    take_down(name)
    assert traces() == clean_machine


def _lines_of(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def test_a_promise_that_was_not_kept_is_no_obstacle(clean_machine: set[str]) -> None:
    """Promised things that do not exist, and a line cut short, do not stop down."""
    name = f"{PREFIX}-promise"
    directory(name).mkdir(parents=True)
    journal = Journal(name)
    journal.write(Record("cgroup", f"kubeproxy-bpf-{name}", 0))
    journal.write(Record("netns", f"{name}-node1", 12345))
    journal.write(Record("bpffs", str(directory(name) / "bpf"), 0))
    with journal.path.open("a") as file:
        file.write('{"kind": "netns", "na')
    assert take_down(name) == []
    assert traces() == clean_machine


def test_an_unmounted_shell_and_an_unmarked_group_are_removed(clean_machine: set[str]) -> None:
    """What a build made but had no time to mark goes too, since it was promised and is empty."""
    name = f"{PREFIX}-shell"
    directory(name).mkdir(parents=True)
    journal = Journal(name)
    journal.write(Record("cgroup", f"kubeproxy-bpf-{name}", 0))
    (cgroup.mount_point() / f"kubeproxy-bpf-{name}").mkdir()
    namespace.prepare()
    journal.write(Record("netns", f"{name}-node1", 12345))
    namespace.path_of(f"{name}-node1").touch()
    take_down(name)
    assert traces() == clean_machine


def test_down_kills_what_users_started(clean_machine: set[str]) -> None:
    """A program that runs in a place ends with the sandbox, also one that changed its session."""
    with Sandbox.up(f"{PREFIX}-user", "routed", NETWORK_ONLY) as sandbox:
        argv = sandbox.place("shell-1").launch(["setsid", "-f", "sleep", "1000"])
        subprocess.run(argv, check=True)
        assert cgroup.members(sandbox.place("shell-1").cgroup)
    assert traces() == clean_machine


def test_foreign_namespace_is_refused_and_kept(clean_machine: set[str]) -> None:
    """A namespace of our name that we did not make stops the build and survives it."""
    name = f"{PREFIX}-f"
    inode = _foreign_namespace(f"{name}-node2")
    try:
        with pytest.raises(Clash, match=f"{name}-node2 exists and was not made by this sandbox"):
            Sandbox.up(name, "routed", NETWORK_ONLY)
        assert namespace.path_of(f"{name}-node2").stat().st_ino == inode
    finally:
        subprocess.run(["ip", "netns", "delete", f"{name}-node2"], check=True)
    assert traces() == clean_machine


def test_a_namespace_that_took_our_name_is_kept(clean_machine: set[str]) -> None:
    """A namespace that replaced ours under the same name is not ours, and down says so."""
    name = f"{PREFIX}-r"
    sandbox = Sandbox.up(name, "routed", NETWORK_ONLY)
    subprocess.run(["ip", "netns", "delete", f"{name}-client"], check=True)
    _foreign_namespace(f"{name}-client")
    try:
        assert sandbox.down() == [
            f"network namespace {name}-client is not the one that this sandbox made"
        ]
        assert namespace.path_of(f"{name}-client").exists()
    finally:
        subprocess.run(["ip", "netns", "delete", f"{name}-client"], check=True)
    assert traces() == clean_machine


def test_foreign_group_is_refused_and_its_processes_live(clean_machine: set[str]) -> None:
    """A control group of our name that we did not make stops the build; its processes go on."""
    name = f"{PREFIX}-g"
    group = cgroup.mount_point() / f"kubeproxy-bpf-{name}"
    group.mkdir()
    process = subprocess.Popen(["sleep", "1000"])
    try:
        (group / "cgroup.procs").write_text(str(process.pid))
        with pytest.raises(Clash, match="control group"):
            Sandbox.up(name, "routed", NETWORK_ONLY)
        assert process.poll() is None
        assert cgroup.members(group) == [process.pid]
    finally:
        process.kill()
        process.wait()
        cgroup.remove_tree(group)
    assert traces() == clean_machine


def test_unmarked_group_with_processes_is_never_emptied(clean_machine: set[str]) -> None:
    """Even where the journal names a group, processes end only if the group carries our mark."""
    name = f"{PREFIX}-u"
    group = cgroup.mount_point() / f"kubeproxy-bpf-{name}"
    group.mkdir()
    directory(name).mkdir(parents=True)
    Journal(name).write(Record("cgroup", group.name, 0))
    process = subprocess.Popen(["sleep", "1000"])
    try:
        (group / "cgroup.procs").write_text(str(process.pid))
        take_down(name)
        assert process.poll() is None
        assert group.is_dir()
    finally:
        process.kill()
        process.wait()
        cgroup.remove_tree(group)
    assert traces() == clean_machine


def test_two_sandboxes_stand_side_by_side() -> None:
    """Two sandboxes have ranges of their own, and taking one down leaves the other working."""
    with Sandbox.up(f"{PREFIX}-one", "bridge", NETWORK_ONLY) as one:
        with Sandbox.up(f"{PREFIX}-two", "bridge", NETWORK_ONLY) as two:
            assert not {*one.layout.addresses("web-1")} & {*two.layout.addresses("web-1")}
            other = Target("TCP", two.layout.addresses("web-1").v4, BACKEND_PORT)
            assert one.run_in("shell-1", partial(ask, other)) in ("unreachable", "timeout")
        own = Target("TCP", one.layout.addresses("web-2").v4, BACKEND_PORT)
        assert one.run_in("shell-1", partial(ask, own)) == "web-2"


def test_a_name_is_taken_once() -> None:
    """A second build under the same name is refused and does not harm the first."""
    with Sandbox.up(f"{PREFIX}-n", "routed", NETWORK_ONLY) as first:
        with pytest.raises(AlreadyUp):
            Sandbox.up(f"{PREFIX}-n", "routed", NETWORK_ONLY)
        own = Target("UDP", first.layout.addresses("web-2").v6, BACKEND_PORT)
        assert first.run_in("shell-1", partial(ask, own)) == "web-2"


def test_commands_on_one_sandbox_exclude_each_other() -> None:
    """While one command changes a sandbox, another one is told to wait."""
    with Sandbox.up(f"{PREFIX}-l", "routed", NETWORK_ONLY) as sandbox:
        with locked(sandbox.layout.name), pytest.raises(SandboxError, match="another command"):
            take_down(sandbox.layout.name)


def test_a_failed_build_takes_itself_down(clean_machine: set[str]) -> None:
    """When a program of the sandbox ends at once, its last words are told and nothing is left."""
    options = Options(proxy_command="sh -c 'echo no such luck; exit 3'")
    with pytest.raises(SandboxError, match="kube-proxy on node1 ended at once: no such luck"):
        Sandbox.up(f"{PREFIX}-p", "routed", options)
    assert traces() == clean_machine


def test_host_sysctls_stay_as_they_were() -> None:
    """Forwarding and its like change inside the namespaces only."""
    keys = ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/all/rp_filter")
    values = [Path("/proc/sys/net", key).read_text() for key in keys]
    with Sandbox.up(f"{PREFIX}-s", "routed", NETWORK_ONLY) as sandbox:
        inside = sandbox.exec("node1", ["cat", "/proc/sys/net/ipv4/ip_forward"])
        assert inside.stdout == "1\n"
        assert [Path("/proc/sys/net", key).read_text() for key in keys] == values


def test_unknown_sandbox_is_named() -> None:
    """Working with a sandbox that does not exist says so and how to start one."""
    with pytest.raises(NotUp, match="sandbox up --name kpbt-sb-none"):
        Sandbox.find(f"{PREFIX}-none")


def test_down_from_inside_is_refused() -> None:
    """Down inside the sandbox would kill itself half-way, so it refuses before it begins."""
    with Sandbox.up(f"{PREFIX}-i", "routed", NETWORK_ONLY) as sandbox:
        with pytest.raises(SandboxError, match="leave it first"):
            sandbox.run_in("node1", partial(take_down, sandbox.layout.name))
        assert namespace.path_of(sandbox.layout.netns("node1")).exists()
        assert os.path.ismount(sandbox.directory / "bpf")
