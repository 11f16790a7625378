# SPDX-License-Identifier: Apache-2.0
"""The documents name what there is: every reason, every flag of our own, every file of bpf/lib."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kubeproxy_bpf.config.load import FLAGS
from kubeproxy_bpf.dataplane.probe import probe_kernel

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


def test_every_reason_is_explained() -> None:
    """Each way out of a program has one row, and each row of a reason is one of them."""
    header = (ROOT / "bpf" / "include" / "kpb_types.h").read_text()
    reasons = {name.lower() for name in re.findall(r"COUNT_(\w+) = \d+", header)}
    decisions = (DOCS / "metrics.md").read_text().split("\n## ")[1]
    rows = re.findall(r"^\| `(\w+)` \|", decisions, re.MULTILINE)
    assert sorted(reasons - {"none", "kinds"}) == sorted(rows)


def test_every_flag_of_our_own_is_explained() -> None:
    """What kube-proxy has no word for is named where operators look."""
    text = "".join(page.read_text() for page in PAGES)
    ours = {name for name in FLAGS.defaults() if name.startswith("bpf-")}
    assert {name for name in ours if f"--{name}" not in text} == set()


def test_every_feature_of_the_kernel_has_its_fallback() -> None:
    """The table of the installation names what is looked for, since when there is it, and whether
    the proxy starts without it."""
    table = (DOCS / "install.md").read_text().split("### Features of the kernel")[1]
    rows = re.findall(r"^\| `([^`]+)` \| ([0-9.]*) ?\| .* \| (.*) \|$", table, re.MULTILINE)
    told = {name: (since, last == "does not start") for name, since, last in rows}
    features = [each for each in probe_kernel() if not each.name.startswith("CAP_")]
    assert {each.name: (each.since, each.necessary) for each in features} == told


def test_every_file_of_the_programs_is_placed() -> None:
    """Who opens a file of bpf/ finds it in the table of the architecture."""
    text = (DOCS / "architecture.md").read_text()
    names = {path.name for path in (ROOT / "bpf" / "lib").glob("*.h")}
    assert {name for name in names if f"lib/{name}" not in text} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """What a page refers to within the project is there; figures come with a published run."""
    links = re.findall(r"(?<!!)\[[^\]]*\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
