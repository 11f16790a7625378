# SPDX-License-Identifier: Apache-2.0
"""The command, the API server and the proxies of a whole sandbox."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Callable, Iterator

import pytest

from kubeproxy_bpf.sandbox.cluster import Sandbox
from kubeproxy_bpf.sandbox.inventory import Manifest
from kubeproxy_bpf.sandbox.journal import Journal
from kubeproxy_bpf.sandbox.probe import Target, ask, ask_often
from tests.e2e.sandbox.conftest import PREFIX, traces

pytestmark = pytest.mark.root

NAME = f"{PREFIX}-all"
EXAMPLES = Path(__file__).parents[3] / "manifests" / "sandbox"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "kubeproxy_bpf.tool", "sandbox", *arguments]
    return subprocess.run(argv, capture_output=True, text=True)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """A whole sandbox that the command built, with the example Services."""
    done = command("up", "--name", NAME, "-f", str(EXAMPLES))
    assert done.returncode == 0, done.stderr
    yield Sandbox.find(NAME)
    done = command("down", "--name", NAME)
    assert (done.returncode, done.stdout) == (0, f"Sandbox {NAME} is down.\n")


def wait_for(check: Callable[[], bool]) -> None:
    """Wait until a change has reached the kernel."""
    deadline = time.monotonic() + 20
    while not check():
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.02)


def service(sandbox: Sandbox, name: str) -> Manifest:
    return next(x for x in sandbox.api.list("Service") if x["metadata"]["name"] == name)


def vip(sandbox: Sandbox, name: str) -> Target:
    return Target("TCP", service(sandbox, name)["spec"]["clusterIP"], 80)


def test_pods_are_scaled_through_the_api(sandbox: Sandbox) -> None:
    """Scaling changes who answers, down to nobody and back, on both nodes."""
    target = vip(sandbox, "web")
    for replicas, expected in (
        (1, {"web-1"}),
        (3, {"web-1", "web-2", "web-3"}),
        (0, {"refused"}),
        (4, {"web-1", "web-2", "web-3", "web-4"}),
    ):
        assert command("scale", "--name", NAME, "web", str(replicas)).returncode == 0
        for place in ("shell-1", "shell-2", "node2"):
            answers: Callable[[], Counter[str]] = partial(
                sandbox.run_in, place, partial(ask_often, target, 80)
            )
            wait_for(lambda answers=answers, expected=expected: set(answers()) == expected)


def test_kubectl_works_inside(sandbox: Sandbox) -> None:
    """In every place, kubectl finds the API server without a flag."""
    argv = ("--", "sh", "-c", "command -v kubectl || exit 0; kubectl get services -o name")
    done = command("exec", "--name", NAME, "shell-2", *argv)
    assert done.returncode == 0, done.stderr
    if done.stdout:
        assert "service/web" in done.stdout.splitlines()


@pytest.mark.parametrize("place", ["node1", "web-2", "client", "net"])
def test_exec_joins_group_and_namespace(sandbox: Sandbox, place: str) -> None:
    """A program runs in the place's group and namespace, and its exit code comes back."""
    script = "cat /proc/self/cgroup; stat -L -c %i /proc/self/ns/net; exit 7"
    done = command("exec", "--name", NAME, place, "--", "sh", "-c", script)
    group = [line[3:] for line in done.stdout.splitlines() if line.startswith("0::")]
    assert group == [f"/{sandbox.layout.cgroup(place)}"]
    inode = Path("/run/netns", sandbox.layout.netns(place)).stat().st_ino
    assert done.stdout.splitlines()[-1] == str(inode)
    assert done.returncode == 7


def test_functions_join_group_and_namespace(sandbox: Sandbox) -> None:
    """A Python function runs in the place's group too, and the caller stays where it is."""
    before = Path("/proc/self/cgroup").read_text()
    inside = sandbox.run_in("web-3", Path("/proc/self/cgroup").read_text)
    assert f"0::/{sandbox.layout.cgroup('web-3')}\n" in inside
    assert Path("/proc/self/cgroup").read_text() == before


def test_failures_of_functions_come_back(sandbox: Sandbox) -> None:
    """An exception of a function in a place is raised in the caller."""
    with pytest.raises(FileNotFoundError):
        sandbox.run_in("web-3", Path("/no/such/file").read_text)


def test_every_program_runs_in_its_group(sandbox: Sandbox) -> None:
    """One proxy per node in the node's group, one backend per serving pod in the pod's."""
    for node in sandbox.layout.node_names:
        (pid,) = sandbox.proxy_pids(node)
        assert b"kube-proxy" in Path(f"/proc/{pid}/cmdline").read_bytes()
        inode = os.stat(f"/proc/{pid}/ns/net").st_ino
        assert inode == Path("/run/netns", sandbox.layout.netns(node)).stat().st_ino


def test_status_shows_places_and_services(sandbox: Sandbox) -> None:
    """Status lists every place, the health of the proxies, and every Service with its VIP."""
    shown = command("status", "--name", NAME).stdout
    for place in sandbox.layout.places:
        assert sandbox.layout.netns(place) in shown
    assert shown.count(" healthy\n") == 2
    assert service(sandbox, "web")["spec"]["clusterIP"] in shown


def test_restart_starts_a_proxy_that_was_killed(sandbox: Sandbox) -> None:
    """Also one that runs is exchanged, by the ordinary way."""
    (killed,) = sandbox.proxy_pids("node2")
    os.kill(killed, signal.SIGKILL)
    pids = {killed}
    for _ in range(2):
        done = command("restart", "--name", NAME, "node2")
        assert (done.returncode, done.stdout) == (0, "kube-proxy on node2 runs again\n")
        (pid,) = sandbox.proxy_pids("node2")
        assert pid not in pids
        pids.add(pid)
    assert command("status", "--name", NAME).stdout.count(" healthy\n") == 2


def test_apply_changes_what_is_there(sandbox: Sandbox, tmp_path: Path) -> None:
    """Applying a changed manifest changes the Service, and its VIP follows."""
    text = (EXAMPLES / "nobody.yaml").read_text().replace("app: nobody", "app: web")
    (tmp_path / "s.yaml").write_text(text.replace("name: nobody", "name: late"))
    done = command("apply", "--name", NAME, "-f", str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "service/late applied\n")
    target = vip(sandbox, "late")
    wait_for(lambda: sandbox.run_in("shell-1", partial(ask, target)).startswith("web-"))
    done = command("apply", "--name", NAME, "-f", str(tmp_path))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("apply", "--name", NAME, "-f", "/no/such.yaml"), "No such file"),
        (("exec", "--name", NAME, "nowhere", "--", "true"), "no place 'nowhere'"),
        (("scale", "--name", NAME, "web", "9"), "can have 0 to 4 pods, not 9"),
        (("scale", "--name", NAME, "wbe", "2"), "no app 'wbe': there are web"),
        (("restart", "--name", NAME, "client"), "no node 'client': there are node1, node2"),
        (("up", "--name", NAME), "exists already: take it down first"),
        (("status", "--name", "kpbt-sb-none"), "is not up"),
        (("up", "--name", "No"), "use up to 20 lower-case letters"),
    ],
)
def test_failures_are_one_sentence(
    sandbox: Sandbox, arguments: tuple[str, ...], sentence: str
) -> None:
    """What goes wrong is told in one line, with exit code 1."""
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("kubeproxy-bpf: ") and done.stderr.count("\n") == 1
    assert sentence in done.stderr


def test_a_reader_that_leaves_is_no_failure(sandbox: Sandbox) -> None:
    """`status | head` ends silently, whatever the reader leaves unread."""
    reader, writer = os.pipe()
    os.close(reader)
    argv = [sys.executable, "-m", "kubeproxy_bpf.tool", "sandbox", "status", "--name", NAME]
    done = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_down_of_nothing_is_no_failure() -> None:
    """Taking down what is not there says so and succeeds."""
    done = command("down", "--name", "kpbt-sb-none")
    assert (done.returncode, done.stdout) == (
        0,
        "There is no sandbox kpbt-sb-none; nothing to do.\n",
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_build_takes_itself_down(clean_machine: set[str], number: int) -> None:
    """Interrupted by a signal, up removes what it had built."""
    name = f"{PREFIX}-int"
    # A suite that runs in the background of a shell ignores SIGINT, and so would what it starts.
    argv = ["env", "--default-signal=INT", sys.executable, "-m", "kubeproxy_bpf.tool"]
    argv += ["sandbox", "up", "--name", name]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: len(Journal(name).records()) > 16)
    process.send_signal(number)
    process.communicate()
    assert process.returncode == 128 + number
    assert traces() == clean_machine


def test_without_root_one_sentence() -> None:
    """Without root nothing is begun, and the reason is told."""
    code = "import os, sys; os.setuid(65534); from kubeproxy_bpf.tool import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", "import kubeproxy_bpf.tool\n" + code, "sandbox", "up"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.endswith("run it as root\n") and done.stderr.count("\n") == 1
