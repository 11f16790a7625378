# SPDX-License-Identifier: Apache-2.0
"""The wall clock jumps by years, there and back: nothing that the proxy decides hangs on it.

What may: whether a certificate is valid, the date in a ``Retry-After`` header, and times that are
only told (log, metrics, events, pages). Times of the programs are those of the kernel since boot.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fault.load.offered import under_load
from tests.fault.load.stage import ALL, Stage

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

TWO = frozenset({"web-1", "web-2"})
YEARS = 10 * 365 * 86400
SOURCE = Path(__file__).with_name("clock_jump.c")
PROXY = str(Path(sys.executable).with_name("kube-proxy"))
PACKAGE = Path(__file__).parents[3] / "kubeproxy_bpf"
WALL = re.compile(r"\btime\.time(_ns)?\(|datetime\.(now|utcnow)\(|\.wall\(|CLOCK_REALTIME")
MAY_TELL_TIME = {
    "api/clock.py": "the clock that the others are given",
    "api/client.py": "a date in Retry-After",
    "api/meters.py": "a time that is told",
    "api/recorder.py": "the times of events",
    "last_known.py": "the age of a snapshot, told",
    "serve/zpages.py": "a time that is told",
    "status.py": "a time that is told, as kube-proxy's healthz does",
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What shifts the clock of a process."""
    built = tmp_path_factory.mktemp("clock") / "clock_jump.so"
    argv = ["clang", "-shared", "-fPIC", "-O2", "-Wall", "-o", str(built), str(SOURCE)]
    subprocess.run(argv, check=True)
    return built


@under_load
def test_the_wall_clock_jumps(bare_stage: Stage, library: Path) -> None:
    """Ten years on, ten back: changes arrive, the process stays, and its log tells the jump."""
    stage, jumping = bare_stage, library.with_name("shift")
    jumping.write_text("0")
    preload = f"env LD_PRELOAD={library} KPBT_CLOCK_SHIFT={jumping}"
    stage.want_proxy(command=f"{preload} {PROXY}")
    pid = stage.proxy_pid()
    log = len(stage.log())
    with stage.load() as load:
        for seconds, names in ((YEARS, TWO), (-YEARS, ALL), (0, TWO), (YEARS, ALL)):
            jumping.write_text(str(seconds))
            stage.fault(kind="cut", verbs=["watch"], times=1)
            with load.recovering(), load.changing(names):
                stage.sandbox.scale("web", len(names))
                stage.until_answers(names)
    assert pid == stage.proxy_pid()
    told = set(re.findall(r"^(\d{4})-\d\d-\d\dT", stage.log()[log:], re.MULTILINE))
    assert len(told) > 1, "the process did see another time"


def test_who_reads_the_wall_clock() -> None:
    """Every module that does is known, with its reason: none decides about Services."""
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if "sandbox" not in path.parts and WALL.search(path.read_text())
    }
    assert found == set(MAY_TELL_TIME)
