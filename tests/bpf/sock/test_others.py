# SPDX-License-Identifier: Apache-2.0
"""Programs of other instances at the hooks of one: found and told, wherever they disturb."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest
import structlog

from kubeproxy_bpf.dataplane import inventory
from kubeproxy_bpf.dataplane.attach import attach_unlinked
from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.dataplane.others import Others, report_others
from kubeproxy_bpf.dataplane.owned import Owned, Owner

from .places import Places
from .test_loading import other_cgroup  # noqa: F401
from .test_unlinked import OWNER, Load, cgroup, load  # noqa: F401

pytestmark = pytest.mark.root

RENAMED = OWNER._replace(instance=OWNER.instance + 1)
MOVED = OWNER._replace(host_netns=OWNER.host_netns + 1)


@pytest.fixture
def nothing_left(cgroup: Path) -> Iterator[None]:  # noqa: F811
    """Afterwards the other instances are gone, too."""
    yield
    for owner in (RENAMED, MOVED):
        inventory.end_all(Owned(owner))


def at_work(load: Load, cgroup: Path, owner: Owner) -> list[int]:  # noqa: F811
    """The ids of the programs of an instance that stands at a control group from now on."""
    loaded: Datapath = load(owner)
    attach_unlinked(loaded.programs, cgroup, Owned(owner))
    return sorted(program.info().id for program in loaded.programs.values())


@pytest.mark.usefixtures("nothing_left")
def test_another_name_and_another_network_namespace_are_told_apart(
    load: Load, cgroup: Path  # noqa: F811
) -> None:
    """Each is another instance at the same hooks; our own programs are not."""
    at_work(load, cgroup, OWNER)
    renamed, moved = at_work(load, cgroup, RENAMED), at_work(load, cgroup, MOVED)

    assert Others(OWNER).at_cgroup(cgroup) == {RENAMED: renamed, MOVED: moved}


@pytest.mark.usefixtures("nothing_left")
def test_instances_elsewhere_are_none_of_our_business(
    load: Load, cgroup: Path, places: Places  # noqa: F811
) -> None:
    """Several instances share a kernel in control groups of their own."""
    at_work(load, cgroup, OWNER)
    at_work(load, places.cgroup, RENAMED)

    assert Others(OWNER).at_cgroup(cgroup) == {}
    assert Others(OWNER).at_cgroup(cgroup / "gone") == {}


@pytest.mark.usefixtures("nothing_left")
def test_a_start_names_the_other_instance(load: Load, cgroup: Path) -> None:  # noqa: F811
    """One error with its id, its programs and what to do; nothing is ended."""
    renamed = at_work(load, cgroup, RENAMED)
    with structlog.testing.capture_logs() as logged:
        report_others(OWNER, cgroup)
        report_others(RENAMED, cgroup)

    (told,) = logged
    assert (told["event"], told["log_level"]) == ("other_instance_attached", "error")
    assert told["programs"] == renamed
    assert told["instance"] == f"{RENAMED.instance:016x}"
    assert "--cleanup" in told["action"]
    assert Others(OWNER).at_cgroup(cgroup) == {RENAMED: renamed}
