# SPDX-License-Identifier: Apache-2.0
"""Run one test suite, or sum up the suites that ran.

``run_tests.py SUITE PATH...`` runs pytest on those paths that exist and leaves a JUnit report in
``.build/results``; a suite without a test says so and passes. ``run_tests.py --summary`` prints
what was skipped and the totals over all reports. Called by tox and by the Makefile; it holds no
setting of the tests, those are in ``tox.ini``.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Iterator, Sequence

RESULTS = Path(__file__).parent.parent / ".build" / "results"


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
    return int(status)


def outcomes(report: Path) -> Iterator[tuple[str, str]]:
    """Yield the outcome and, for a skipped test, "name: reason" of each test in a report."""
    for case in ElementTree.parse(report).iter("testcase"):
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            yield "failed", ""
        elif skipped is not None:
            yield "skipped", f"{case.get('name')}: {skipped.get('message')}"
        else:
            yield "passed", ""


def summarise() -> int:
    """Print the skipped tests and the totals; fail when no test ran at all."""
    total: Counter[str] = Counter()
    for report in sorted(RESULTS.glob("*.xml")):
        for outcome, skipped in outcomes(report):
            total[outcome] += 1
            if skipped:
                print(f"skipped: {report.stem}: {skipped}")
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped")
    return 0 if total["passed"] and not total["failed"] else 1


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["--summary"]:
        return summarise()
    return run(arguments[0], arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
