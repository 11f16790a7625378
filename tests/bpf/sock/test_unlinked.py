# SPDX-License-Identifier: Apache-2.0
"""Socket hooks without links and pins: recognised, replaced in place; their maps found again."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Callable, Iterator

import pytest

from kubeproxy_bpf.dataplane import inventory, unlinked
from kubeproxy_bpf.dataplane.attach import attach, attach_unlinked, close_all, effective
from kubeproxy_bpf.dataplane.loader import Datapath, load_datapath
from kubeproxy_bpf.dataplane.owned import Owned, Owner
from kubeproxy_bpf.dataplane.settings import ConfigFlags, Settings
from kubeproxy_bpf.errors import UnsupportedKernel
from kubeproxy_bpf.libbpf import BpfObject, LibbpfError

from .conftest import OBJECT, SIZES
from .places import Places
from .test_loading import other_cgroup, pin_dir  # noqa: F401

pytestmark = pytest.mark.root

OWNER = Owner(instance=os.getpid() << 16, host_netns=77)

Load = Callable[..., Datapath]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Loads programs of the instance once more, on the maps of those that run.

    Without those that take the verifier long: how many there are is no matter here.
    """
    opened: list[Datapath] = []
    whole = BpfObject.open

    def few(path: Path) -> BpfObject:
        bpf_object = whole(path)
        for name in ("kpb_sendmsg4", "kpb_sendmsg6"):
            bpf_object.programs[name].set_autoload(False)
        return bpf_object

    def once_more(owner: Owner = OWNER, pins: Path | None = None, **sizes: int) -> Datapath:
        settings = Settings(owner.host_netns, owner.instance, ConfigFlags.TCP_ORIGIN)
        with monkeypatch.context() as patched:
            patched.setattr(BpfObject, "open", few)
            opened.append(load_datapath(OBJECT, pins, SIZES | sizes, settings, Owned(owner)))
        return opened[-1]

    yield once_more
    for datapath in opened:
        datapath.close()


@pytest.fixture
def cgroup(other_cgroup: Path) -> Iterator[Path]:  # noqa: F811
    """A cgroup; afterwards nothing of the instance is attached anywhere."""
    yield other_cgroup
    assert inventory.end_all(Owned(OWNER)) == []


def ids(datapath: Datapath) -> dict[str, int]:
    return {name: each.info().id for name, each in datapath.maps.items()}


def running(datapath: Datapath, cgroup: Path) -> dict[str, tuple[int, ...]]:
    return effective(datapath.programs, cgroup)


def only(datapath: Datapath) -> dict[str, tuple[int, ...]]:
    """Each program alone at its hook."""
    return {name: (program.info().id,) for name, program in datapath.programs.items()}


# ---- whose is it ----


def test_programs_tell_whose_they_are(load: Load) -> None:
    """By instance and network namespace together: another of either is somebody else."""
    ours = load()
    load(OWNER._replace(instance=OWNER.instance + 1))
    load(OWNER._replace(host_netns=78))
    found = {program.id for program in Owned(OWNER).programs()}

    assert found == {program.info().id for program in ours.programs.values()}
    owned = Owned(OWNER)
    assert ours.programs["kpb_release"].info().id in owned
    assert 0 not in owned


@pytest.mark.parametrize("name", ["kube_proxy.bpf.o", "packets.bpf.o"])
def test_names_of_maps_differ_where_the_kernel_cuts_them(name: str) -> None:
    """Maps are found by what the kernel keeps of their names: 15 characters."""
    with BpfObject.open(OBJECT.with_name(name)) as bpf_object:
        names = [each for each in bpf_object.maps if not each.startswith(".")]
    assert len({each[:15] for each in names}) == len(names)


def test_maps_of_running_programs_are_taken(load: Load, cgroup: Path) -> None:
    """The process is gone, nothing is pinned, and the next one has the same maps."""
    first = load()
    attach_unlinked(first.programs, cgroup, Owned(OWNER))
    first.maps["kpb_vips"].update(bytes(16), b"\x02\0\0\0")
    before = ids(first)
    first.close()
    second = load()

    assert ids(second) == before
    assert second.maps["kpb_vips"].lookup(bytes(16)) == b"\x02\0\0\0"


def test_maps_are_taken_together_or_not_at_all(load: Load, cgroup: Path) -> None:
    """One that does not fit makes all new that user space writes: they speak of each other."""
    first = load()
    attach_unlinked(first.programs, cgroup, Owned(OWNER))
    before = ids(first)
    after = ids(load(kpb_vips=512))

    for name in ("vips", "frontends", "services", "records", "slots", "backends"):
        assert after[f"kpb_{name}"] != before[f"kpb_{name}"], name


def test_maps_that_run_are_pinned_in_place_of_others(
    load: Load, cgroup: Path, pin_dir: Path  # noqa: F811
) -> None:
    """Pins may be of an earlier time: what programs use is the truth."""
    stale = load(pins=pin_dir)
    old = ids(stale)
    stale.close()
    settings = Settings(OWNER.host_netns, OWNER.instance, ConfigFlags.TCP_ORIGIN)
    with load_datapath(OBJECT, None, SIZES, settings) as between:
        attach_unlinked(between.programs, cgroup, Owned(OWNER))
        current = ids(between)
    now = load(pins=pin_dir)

    assert ids(now) == current
    assert not set(current.values()) & set(old.values())
    now.close()
    assert inventory.end_all(Owned(OWNER)) == []
    assert ids(load(pins=pin_dir)) == current  # by their pins


# ---- attached without links ----


def test_hooks_stay_without_process_and_are_replaced_in_place(load: Load, cgroup: Path) -> None:
    """One program at each hook before, between and after."""
    first = load()
    attach_unlinked(first.programs, cgroup, Owned(OWNER))
    before = only(first)
    first.close()
    second = load()
    assert running(second, cgroup) == before
    attach_unlinked(second.programs, cgroup, Owned(OWNER))

    assert running(second, cgroup) == only(second)


def test_links_that_nobody_sees_end_after_the_new_hooks_work(
    load: Load, cgroup: Path, pin_dir: Path  # noqa: F811
) -> None:
    """And the other way round: each hook has one program, whichever way it came."""
    first = load(pins=pin_dir)
    close_all(attach(first.programs, cgroup, pin_dir / "links", Owned(OWNER)).values())
    second = load()
    assert ids(second) == ids(first)
    attach_unlinked(second.programs, cgroup, Owned(OWNER))
    assert running(second, cgroup) == only(second)

    third = load(pins=pin_dir)
    close_all(attach(third.programs, cgroup, pin_dir / "links", Owned(OWNER)).values())
    assert running(third, cgroup) == only(third)
    assert {each.link_id > 0 for each in inventory.attachments(Owned(OWNER), [cgroup])} == {True}


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets the kernel refuse to attach one program."""
    prog_attach = unlinked.prog_attach

    def refuse(refused: int) -> None:
        def attach(fd: int, *arguments: int, **options: int) -> None:
            if fd == refused:
                raise LibbpfError(errno.EPERM, "bpf_prog_attach")
            prog_attach(fd, *arguments, **options)

        monkeypatch.setattr(unlinked, "prog_attach", attach)

    return refuse


def test_a_failed_first_attach_leaves_nothing(
    load: Load, cgroup: Path, refuse: Callable[[int], None]
) -> None:
    """When one hook is refused those before it are detached again."""
    datapath = load()
    refuse(datapath.programs["kpb_connect6"].fd)
    with pytest.raises(UnsupportedKernel, match="socket hook kpb_connect6"):
        attach_unlinked(datapath.programs, cgroup, Owned(OWNER))
    assert set(running(datapath, cgroup).values()) == {()}


def test_a_failed_change_over_leaves_no_hook_empty(
    load: Load, cgroup: Path, pin_dir: Path, refuse: Callable[[int], None]  # noqa: F811
) -> None:
    """Hooks that have changed over keep the new programs, all others the old ones."""
    first, second = load(pins=pin_dir), load()
    close_all(attach(first.programs, cgroup, pin_dir / "links", Owned(OWNER)).values())
    refuse(second.programs["kpb_connect4"].fd)
    with pytest.raises(UnsupportedKernel, match="socket hook kpb_connect4"):
        attach_unlinked(second.programs, cgroup, Owned(OWNER))

    old = {name: only(first)[name] for name in ("kpb_connect4", "kpb_connect6")}
    assert running(second, cgroup) == only(second) | old


# ---- what is there, and ending it ----


@pytest.mark.parametrize("linked", [True, False], ids=["linked", "unlinked"])
def test_hooks_at_a_cgroup_of_before_end(
    linked: bool, load: Load, cgroup: Path, places: Places, pin_dir: Path  # noqa: F811
) -> None:
    """When the cgroup to hook has become another, the first one is left clean."""
    past = places.cgroup.with_name(places.cgroup.name + "-past")
    past.mkdir()
    try:
        first = load()
        if linked:
            close_all(attach(first.programs, past, pin_dir / "links", Owned(OWNER)).values())
        else:
            attach_unlinked(first.programs, past, Owned(OWNER))
        first.close()
        second = load()
        attach_unlinked(second.programs, cgroup, Owned(OWNER))
        current = {program.info().id for program in second.programs.values()}
        inventory.end_strays(Owned(OWNER), current, packets=False)

        assert set(running(second, past).values()) == {()}
        assert running(second, cgroup) == only(second)
    finally:
        inventory.end_all(Owned(OWNER))
        past.rmdir()


def test_the_end_of_one_instance_is_not_that_of_another(load: Load, cgroup: Path) -> None:
    """Two at the same cgroup: what is ended is one of them, whole."""
    neighbour = OWNER._replace(instance=OWNER.instance + 1)
    ours, theirs = load(), load(neighbour)
    attach_unlinked(ours.programs, cgroup, Owned(OWNER))
    attach_unlinked(theirs.programs, cgroup, Owned(neighbour))
    try:
        assert inventory.end_all(Owned(OWNER)) == []
        assert running(theirs, cgroup) == only(theirs)
        ours.close()
        assert inventory.left(Owned(OWNER)) == []
        assert inventory.maps_left(Owned(neighbour)) >= {theirs.maps["kpb_vips"].info().id}
    finally:
        inventory.end_all(Owned(neighbour))
