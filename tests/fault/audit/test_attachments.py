# SPDX-License-Identifier: Apache-2.0
"""Programs and pins that somebody else takes away come back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from kubeproxy_bpf.libbpf import AttachType, Link, prog_query
from tests.fault.audit.conftest import connecting, links_of, logged
from tests.fault.load.stage import Stage

pytestmark = pytest.mark.root

CONNECT = AttachType.CGROUP_INET4_CONNECT


def cgroup_of(stage: Stage) -> Path:
    return stage.sandbox._root / stage.sandbox.layout.node_cgroup("node1")


def at_connect(stage: Stage) -> list[int]:
    fd = os.open(cgroup_of(stage), os.O_RDONLY)
    try:
        return prog_query(fd, CONNECT)
    finally:
        os.close(fd)


def test_detached_links_are_made_anew(stage: Stage) -> None:
    """One, then all: each runs and its pin holds the new link; packets do the work meanwhile."""
    since, pin = len(stage.log()), links_of(stage) / "kpb_connect4"
    with connecting(stage) as told:
        before = detach(pin)
        assert at_connect(stage) == []
        stage.until(lambda: at_connect(stage))
        stage.until(lambda: logged(stage, since, "pins_put_back", count="1"))
        assert len(logged(stage, since, "hook_put_back", hook="kpb_connect4")) == 1
        assert len(logged(stage, since, "hook_put_back")) == 1
        since = len(stage.log())
        pins = list(links_of(stage).glob("kpb_*"))
        for each in pins:
            detach(each)
        stage.until(lambda: len(logged(stage, since, "hook_put_back")) == len(pins))
        stage.until(lambda: logged(stage, since, "pins_put_back"))

    with Link.open_pinned(pin) as link:
        assert link.info().id != before
        assert link.info().cgroup_id == cgroup_of(stage).stat().st_ino
    assert told.failures == []
    assert not logged(stage, since, "hooks_dead")


def detach(pin: Path) -> int:
    with Link.open_pinned(pin) as link:
        number: int = link.info().id
        link.detach()
    return number


def test_pins_that_were_removed_are_made_again(stage: Stage) -> None:
    """Of maps, of links to the cgroup and of links to devices; a restart then finds them all."""
    since, pins = len(stage.log()), stage.sandbox.pin_path("node1")
    before = {path.relative_to(pins) for path in pins.rglob("*") if not path.is_dir()}
    assert {path.name[:4] for path in before} == {"kpb_", "dev-"}
    with connecting(stage) as told:
        for entry in pins.iterdir():
            shutil.rmtree(entry)
        stage.until(lambda: logged(stage, since, "pins_put_back"))
        after = {path.relative_to(pins) for path in pins.rglob("*") if not path.is_dir()}
        assert before == after
        ids = at_connect(stage)
        stage.kill_proxy()
        assert at_connect(stage) == ids, "the pins keep the programs"
        stage.start_and_await()
    assert told.failures == []
