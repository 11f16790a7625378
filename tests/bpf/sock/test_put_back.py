# SPDX-License-Identifier: Apache-2.0
"""Socket programs that somebody detached return to their hooks, with links and without."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest
import structlog

from kubeproxy_bpf.dataplane.attach import inactive
from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.dataplane.owned import Owned
from kubeproxy_bpf.dataplane.sockethooks import SocketHooks
from kubeproxy_bpf.errors import UnsupportedKernel
from kubeproxy_bpf.libbpf import AttachType, Link, prog_attach, prog_detach

from .test_loading import other_cgroup, pin_dir  # noqa: F401
from .test_unlinked import OWNER, Load, cgroup, load  # noqa: F401

pytestmark = pytest.mark.root

OTHER = OWNER._replace(instance=OWNER.instance + 1)


@pytest.fixture
def loaded(load: Load) -> Datapath:  # noqa: F811
    datapath: Datapath = load(OWNER)
    return datapath


@pytest.fixture
def unlinked(loaded: Datapath, cgroup: Path) -> Iterator[SocketHooks]:  # noqa: F811
    hooks = SocketHooks(loaded.programs, cgroup, None, Owned(OWNER))
    hooks.attach()
    yield hooks
    hooks.close()


@contextmanager
def opened(cgroup: Path) -> Iterator[int]:  # noqa: F811
    fd = os.open(cgroup, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def detach(datapath: Datapath, name: str, cgroup: Path) -> None:  # noqa: F811
    program = datapath.programs[name]
    with opened(cgroup) as fd:
        prog_detach(program.fd, fd, AttachType(program.expected_attach_type))


def test_without_links_they_return(
    unlinked: SocketHooks, loaded: Datapath, cgroup: Path  # noqa: F811
) -> None:
    """Those that are missing, and no others."""
    assert unlinked.put_back() == []
    for name in ("kpb_connect4", "kpb_release"):
        detach(loaded, name, cgroup)
    assert unlinked.put_back() == ["kpb_release", "kpb_connect4"], "what forgets comes first"
    assert inactive(loaded.programs, cgroup) == []
    assert unlinked.put_back() == []


def test_a_link_that_holds_another_program_holds_ours_again(
    loaded: Datapath, load: Load, cgroup: Path, pin_dir: Path  # noqa: F811
) -> None:
    """Somebody may change the program in a link, which then stays where it is."""
    hooks = SocketHooks(loaded.programs, cgroup, pin_dir, Owned(OWNER))
    hooks.attach()
    theirs = load(OTHER).programs["kpb_connect4"]
    with Link.open_pinned(pin_dir / "kpb_connect4") as link:
        link.update(theirs)
        assert hooks.put_back() == ["kpb_connect4"]
        assert link.info().prog_id == loaded.programs["kpb_connect4"].info().id
    hooks.close()


def test_one_that_is_shut_out_hinders_no_other(
    unlinked: SocketHooks, loaded: Datapath, load: Load, cgroup: Path  # noqa: F811
) -> None:
    """Where a program allows none beside it the others return; it is told once, and tried again."""
    for name in ("kpb_connect4", "kpb_connect6"):
        detach(loaded, name, cgroup)
    theirs = load(OTHER).programs["kpb_connect4"]
    with opened(cgroup) as fd, structlog.testing.capture_logs() as logged:
        prog_attach(theirs.fd, fd, AttachType.CGROUP_INET4_CONNECT)
        try:
            assert unlinked.put_back() == ["kpb_connect6"]
            assert unlinked.put_back() == []
        finally:
            prog_detach(theirs.fd, fd, AttachType.CGROUP_INET4_CONNECT)
        assert unlinked.put_back() == ["kpb_connect4"]
    (refused,) = (each for each in logged if each["event"] == "hook_refused")
    assert refused["hook"] == "kpb_connect4" and "allows no others" in refused["error"]


def test_a_cgroup_that_is_gone_is_told(loaded: Datapath, tmp_path: Path) -> None:
    """There is nowhere to attach to."""
    hooks = SocketHooks(loaded.programs, tmp_path / "gone", None, Owned(OWNER))
    with pytest.raises(UnsupportedKernel, match="cannot be opened"):
        hooks.put_back()
