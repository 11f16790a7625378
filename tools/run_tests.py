# SPDX-License-Identifier: Apache-2.0
"""Run one test suite, or sum up the suites that ran.

``run_tests.py SUITE PATH...`` runs pytest on those paths that exist and leaves a JUnit report in
``.build/results``; a suite without a test says so and passes. ``run_tests.py --summary`` prints
what failed or was skipped, and the totals over all reports. Called by tox and ``run-suites``; it
holds no setting of the tests, those are in ``tox.ini``.

Suites with threads, sockets or whole clusters in real time may lose a race with a busy machine:
what failed in up to five of their files is run once more, alone. Who passes then is named in the
summary: it is a fault to be found, but no reason to throw the other results away.
"""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Iterator, Sequence

RESULTS = Path(__file__).parent.parent / ".build" / "results"
IN_REAL_TIME = ("bpf", "e2e", "fault", "unit")
FEW = 5
AGAIN = "-again"


def run(suite: str, paths: Sequence[str]) -> int:
    """Run the suite; the exit status is pytest's, except that "no tests" is not a failure."""
    import pytest

    present = [path for path in paths if Path(path.partition("::")[0]).exists()]
    status = pytest.ExitCode.NO_TESTS_COLLECTED
    if present:
        report = RESULTS / f"{suite}.xml"
        arguments = ["--hypothesis-profile=ci", f"--junit-xml={report}", *present]
        status = pytest.ExitCode(pytest.main(arguments))
    if status is pytest.ExitCode.NO_TESTS_COLLECTED:
        print(f"{suite}: no tests")
        return 0
    if status is pytest.ExitCode.TESTS_FAILED and suite in IN_REAL_TIME:
        return run_again(suite, present)
    return int(status)


def run_again(suite: str, paths: Sequence[str]) -> int:
    """Run what failed once more, if it is of few files, in a new process; pytest's status."""
    results = outcomes(RESULTS / f"{suite}.xml")
    failed = [name for outcome, name, _ in results if outcome == "failed"]
    # A world that did not come up fails all tests of its file.
    if len({name.partition("[")[0].rpartition(".")[0] for name in failed}) > FEW:
        return 1
    print(f"{suite}: {len(failed)} failed, and are run once more")
    report = RESULTS / f"{suite}{AGAIN}.xml"
    command = [sys.executable, "-m", "pytest", "--last-failed", "--last-failed-no-failures=none"]
    return subprocess.run([*command, f"--junit-xml={report}", *paths], check=False).returncode


def outcomes(report: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the outcome, the name and, of a skipped test, the reason of each test in a report."""
    if not report.exists():
        return
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            yield "failed", name, ""
        elif skipped is not None:
            yield "skipped", name, str(skipped.get("message"))
        else:
            yield "passed", name, ""


def summarise() -> int:
    """Print the skipped and the unstable tests and the totals; fail when no test ran at all."""
    total: Counter[str] = Counter()
    for report in sorted(RESULTS.glob("*.xml")):
        if report.stem.endswith(AGAIN):
            continue
        again = outcomes(RESULTS / f"{report.stem}{AGAIN}.xml")
        mended = {name for outcome, name, _ in again if outcome == "passed"}
        for outcome, name, reason in outcomes(report):
            if outcome == "failed" and name in mended:
                outcome = "passed"
                print(f"unstable: {report.stem}: {name}: passed at the second attempt only")
            if outcome == "failed":
                print(f"failed: {report.stem}: {name}")
            if outcome == "skipped":
                print(f"skipped: {report.stem}: {name.rpartition('.')[2]}: {reason}")
            total[outcome] += 1
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return 0 if total["passed"] and not total["failed"] else 1


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["--summary"]:
        return summarise()
    return run(arguments[0], arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
