# SPDX-License-Identifier: Apache-2.0
"""Run programs and Python functions in a place of the sandbox.

A process joins its control group and its network namespace before it becomes the program that was
asked for: a socket belongs for life to the group in which it was made, so a program that moved
later would slip past the socket hooks. Programs go through a one-line shell launcher, functions
through ``fork``. When the group is already gone the launcher fails, so nothing that starts late can
outlive ``down``.
"""

from __future__ import annotations

import os
import pickle
import subprocess
from pathlib import Path
from typing import IO, Callable, NamedTuple, NoReturn, Sequence, TypeVar, cast

from kubeproxy_bpf.sandbox import namespace
from kubeproxy_bpf.sandbox.errors import SandboxError

T = TypeVar("T")

_LAUNCH = 'echo 0 >"$1/cgroup.procs" && n=$2 && shift 2 && exec nsenter --net="$n" -- "$@"'


class Place(NamedTuple):
    """Where a process runs: a network namespace and a control group."""

    netns: str
    """Name below /run/netns."""
    cgroup: Path

    def launch(self, argv: Sequence[str]) -> list[str]:
        """Command line that becomes ``argv`` in this place, under the same process id."""
        netns = str(namespace.path_of(self.netns))
        return ["sh", "-c", _LAUNCH, "sandbox", str(self.cgroup), netns, *argv]


def spawn(place: Place, argv: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    """Start a program of its own session whose output goes to a file."""
    with output.open("ab") as log:
        return subprocess.Popen(
            place.launch(argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def replace_self(place: Place, argv: Sequence[str], environment: dict[str, str]) -> NoReturn:
    """Become a program in a place, with this process's terminal."""
    launch = place.launch(argv)
    os.execvpe(launch[0], launch, {**os.environ, **environment})


def run_in(place: Place, function: Callable[[], T]) -> T:
    """Run a function in a forked child that stands in a place; its answer must be picklable."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(place, function, reader, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        raw = stream.read()
    os.waitpid(pid, 0)
    if not raw:
        raise SandboxError(f"a function in {place.netns} ended without an answer")
    good, answer = pickle.loads(raw)
    if not good:
        raise cast(BaseException, answer)
    return cast(T, answer)


def _child(place: Place, function: Callable[[], T], reader: int, writer: int) -> NoReturn:
    status = 1
    try:
        os.close(reader)
        with os.fdopen(writer, "wb") as stream:
            _answer(place, function, stream)
        status = 0
    finally:
        # Never return into the parent's code, nor run its exit handlers.
        os._exit(status)


def _answer(place: Place, function: Callable[[], T], stream: IO[bytes]) -> None:
    try:
        (place.cgroup / "cgroup.procs").write_text("0")
        namespace.enter(place.netns)
        payload = pickle.dumps((True, function()))
    except BaseException as error:  # every failure belongs to the caller
        payload = _pickled_failure(error)
    stream.write(payload)


def _pickled_failure(error: BaseException) -> bytes:
    try:
        return pickle.dumps((False, error))
    except Exception:  # an exception that cannot travel still tells its text
        return pickle.dumps((False, SandboxError(f"{type(error).__name__}: {error}")))


def parent_of(pid: int) -> int | None:
    """The parent of a process; None if the process is gone."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(status.rpartition(")")[2].split()[1])
