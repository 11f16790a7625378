# SPDX-License-Identifier: Apache-2.0
"""Loading, pinning, attaching, restarting; and the proof that the hooks run."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from pathlib import Path
from typing import Iterator

import pytest
import structlog

from kubeproxy_bpf.config.load import load as load_config
from kubeproxy_bpf.dataplane import canary, layout, probe
from kubeproxy_bpf.dataplane.attach import attach, close_all, detach, effective, inactive
from kubeproxy_bpf.dataplane.canary import CANARY_IPV4, CANARY_IPV6, HooksDead, prove_hooks
from kubeproxy_bpf.dataplane.loader import Datapath, PinnedMapDiffers, load_datapath
from kubeproxy_bpf.dataplane.mounts import ensure_bpffs, find_cgroup_root, is_real_root
from kubeproxy_bpf.dataplane.owned import Owned, Owner
from kubeproxy_bpf.dataplane.probe import Feature, probe_kernel, require
from kubeproxy_bpf.dataplane.settings import ConfigFlags, Settings, netns_cookie
from kubeproxy_bpf.errors import UnsupportedKernel
from kubeproxy_bpf.instance import Instance
from kubeproxy_bpf.libbpf import BpfMap, Link, MapType
from kubeproxy_bpf.plan import records

from .conftest import OBJECT, SIZES
from .places import Places

pytestmark = pytest.mark.root


@pytest.fixture
def pin_dir(tmp_path: Path) -> Iterator[Path]:
    """A BPF file system of the test's own."""
    path = tmp_path / "bpf"
    ensure_bpffs(path)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.fixture
def settings(places: Places) -> Settings:
    return Settings(places.run(netns_cookie), 1, ConfigFlags.TCP_ORIGIN)


def load(pin_dir: Path | None, settings: Settings, **sizes: int) -> Datapath:
    return load_datapath(OBJECT, pin_dir, SIZES | sizes, settings)


# ---- programs ----


@pytest.mark.parametrize("flags", range(8))
def test_programs_load_with_every_setting(flags: int) -> None:
    """Whatever is switched off, the verifier accepts what remains, within a bounded effort."""
    with load(None, Settings(1, 1, flags)) as datapath:
        for name, program in datapath.programs.items():
            info = program.info()
            assert info.name == name
            assert 0 < info.verified_insns < 100_000


def test_every_record_and_enum_binds(datapath: Datapath) -> None:
    """C and Python agree on every shared struct and enum."""
    names = ("vip", "frontend_key", "frontend", "service", "record", "slot", "backend")
    for name in names:
        record = getattr(records, "".join(part.title() for part in name.split("_")))
        layout.bind(datapath.btf, name, record)
    for name, prefix in (("vip_flags", "VIP_"), ("frontend_kind", "FRONTEND_")):
        enum = getattr(records, "".join(part.title() for part in name.split("_")))
        layout.check_enum(datapath.btf, name, prefix, enum)
    layout.check_enum(datapath.btf, "record_flags", "RECORD_", records.RecordFlags)
    layout.check_enum(datapath.btf, "backend_flags", "BACKEND_", records.BackendFlags)
    layout.check_enum(datapath.btf, "frontend_flags", "FRONTEND_", records.FrontendFlags)


# ---- maps ----


def test_pinned_maps_are_taken_over(pin_dir: Path, settings: Settings) -> None:
    """A second load goes on with the maps of the first, contents included."""
    with load(pin_dir, settings) as first:
        first.maps["kpb_vips"].update(bytes(16), b"\x02\0\0\0")
        ids = {name: bpf_map.info().id for name, bpf_map in first.maps.items()}
    with load(pin_dir, settings) as second:
        assert {name: bpf_map.info().id for name, bpf_map in second.maps.items()} == ids
        assert second.maps["kpb_vips"].lookup(bytes(16)) == b"\x02\0\0\0"


def test_other_sizes_get_maps_of_their_own(pin_dir: Path, settings: Settings) -> None:
    """The directory's name depends on sizes: nothing is adopted that does not fit."""
    with load(pin_dir, settings) as first, load(pin_dir, settings, kpb_vips=512) as second:
        assert first.maps_dir != second.maps_dir
        assert second.maps["kpb_vips"].max_entries == 512


def test_a_strange_map_at_our_path_is_refused(pin_dir: Path, settings: Settings) -> None:
    """A map that is not what the programs need is named, not used."""
    with load(pin_dir, settings) as first:
        path = (first.maps_dir or pin_dir) / "kpb_slots"
    path.unlink()
    with BpfMap.create(MapType.ARRAY, "strange", 4, 8, 3) as strange:
        strange.pin(path)
    with pytest.raises(PinnedMapDiffers, match="kpb_slots.*value_size is 8 and must be 4"):
        load(pin_dir, settings)


# ---- links ----


@pytest.fixture
def other_cgroup(places: Places) -> Iterator[Path]:
    path = places.cgroup.with_name(places.cgroup.name + "-other")
    path.mkdir()
    yield path
    path.rmdir()


def test_a_restart_swaps_programs_within_their_links(
    places: Places, pin_dir: Path, settings: Settings, other_cgroup: Path
) -> None:
    """The links stay, the programs are new, and there is one per hook at every moment."""
    links_dir = pin_dir / "links"
    with load(pin_dir, settings) as first:
        before = attach(first.programs, other_cgroup, links_dir)
        ids = {name: link.info().id for name, link in before.items()}
        close_all(before.values())
        with load(pin_dir, settings) as second:
            after = attach(second.programs, other_cgroup, links_dir)
            assert {name: link.info().id for name, link in after.items()} == ids
            assert inactive(second.programs, other_cgroup) == []
            assert len(inactive(first.programs, other_cgroup)) == len(ids)
            close_all(after.values())
    assert detach(links_dir) == len(ids)


def test_links_of_another_cgroup_are_replaced(
    places: Places, pin_dir: Path, settings: Settings, other_cgroup: Path
) -> None:
    """A pinned link that belongs to another cgroup, or to one that is gone, is not kept."""
    gone = places.cgroup.with_name(places.cgroup.name + "-gone")
    links_dir = pin_dir / "links"
    gone.mkdir()
    with load(pin_dir, settings) as datapath:
        close_all(attach(datapath.programs, gone, links_dir).values())
        gone.rmdir()
        close_all(attach(datapath.programs, other_cgroup, links_dir).values())
        assert inactive(datapath.programs, other_cgroup) == []
        count = detach(links_dir)
        assert count == len(datapath.programs)
        assert set(effective(datapath.programs, other_cgroup).values()) == {()}


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "not-seen"])
def test_programs_of_a_cgroup_that_is_gone_serve_nobody(
    seen: bool, places: Places, pin_dir: Path, settings: Settings
) -> None:
    """Their pins outlive it where a node is a container with the file system of its machine: what
    was known last may stand in then, as after any reboot."""
    config = load_config([f"--bpf-pin-path={pin_dir}", "--hostname-override=n1"])
    settings = settings._replace(instance=settings.instance + 1)  # others may be at work
    owned = Owned(Owner(settings.instance, settings.host_netns)) if seen else None

    def serves() -> bool:
        instance = Instance(config)
        instance._pins, instance._owned = pin_dir, owned
        return instance._find_earlier()

    gone = places.cgroup.with_name(places.cgroup.name + "-gone")
    gone.mkdir()
    with load(pin_dir, settings) as datapath:
        close_all(attach(datapath.programs, gone, pin_dir / "links").values())
    assert serves()
    gone.rmdir()
    deadline = time.monotonic() + 30
    while serves() and time.monotonic() < deadline:
        time.sleep(0.05)  # the kernel detaches later
    assert not serves()
    assert any((pin_dir / "links").iterdir())


def test_pinned_hooks_outlive_the_process(
    places: Places, pin_dir: Path, settings: Settings, other_cgroup: Path
) -> None:
    """With all descriptors closed the hooks still run, until they are detached."""
    links_dir = pin_dir / "links"
    with load(pin_dir, settings) as datapath:
        close_all(attach(datapath.programs, other_cgroup, links_dir).values())
        connect = datapath.programs["kpb_connect4"].info().id
    with Link.open_pinned(links_dir / "kpb_connect4") as link:
        assert link.info().prog_id == connect
        assert link.info().cgroup_id == os.stat(other_cgroup).st_ino
    assert detach(links_dir) > 0
    assert list(links_dir.iterdir()) == []


def test_hooks_that_remember_are_attached_last(
    pin_dir: Path, settings: Settings, other_cgroup: Path
) -> None:
    """What forgets works before what remembers: no socket leaves an entry for ever."""
    with load(pin_dir, settings) as datapath:
        links = attach(datapath.programs, other_cgroup, pin_dir / "links")
        by_id = sorted(links, key=lambda name: links[name].info().id)
        close_all(links.values())
    assert by_id[0] == "kpb_release"
    assert by_id[-2:] == ["kpb_connect4", "kpb_connect6"]
    assert len(by_id) == len(datapath.programs)


def test_a_failed_first_attach_leaves_nothing(
    pin_dir: Path, settings: Settings, other_cgroup: Path
) -> None:
    """When one hook is refused those before it are detached and unpinned."""
    links_dir = pin_dir / "links"
    with load(pin_dir, settings) as datapath:
        # A directory in the place of the last pin, which can neither be adopted nor replaced.
        (links_dir / "kpb_connect6").mkdir(parents=True)
        with pytest.raises(OSError):
            attach(datapath.programs, other_cgroup, links_dir)
        assert set(effective(datapath.programs, other_cgroup).values()) == {()}
        assert [path.name for path in links_dir.iterdir()] == ["kpb_connect6"]


def test_hooks_of_another_version_end(
    pin_dir: Path, settings: Settings, other_cgroup: Path
) -> None:
    """A pinned link whose program is no more, or which a crash left half renamed, is detached."""
    links_dir = pin_dir / "links"
    with load(pin_dir, settings) as datapath:
        chosen = datapath.programs["kpb_connect4"]
        close_all(
            attach(
                {"kpb_older": chosen, "new-kpb_connect4": chosen}, other_cgroup, links_dir
            ).values()
        )
        close_all(attach(datapath.programs, other_cgroup, links_dir).values())
        assert {path.name for path in links_dir.iterdir()} == set(datapath.programs)
        running = effective(datapath.programs, other_cgroup)
    assert {len(ids) for ids in running.values()} == {1}


def test_a_cgroup_that_is_not_there(places: Places, datapath: Datapath) -> None:
    """A missing cgroup is one clear sentence."""
    with pytest.raises(UnsupportedKernel, match="nowhere cannot be opened.*--bpf-cgroup-root"):
        attach(datapath.programs, places.cgroup / "nowhere")


# ---- the machine ----


def test_hooks_are_proved(places: Places, datapath: Datapath) -> None:
    """In the hooked cgroup the canary is translated, and leaves no VIP behind."""
    prove_hooks(datapath, places.cgroup)
    assert datapath.maps["kpb_vips"].lookup(_mapped_canary()) is None


def test_hooks_that_do_not_run_are_noticed(datapath: Datapath, other_cgroup: Path) -> None:
    """In a cgroup without our hooks the proof fails and says where."""
    with pytest.raises(HooksDead, match=f"attached to {other_cgroup}, they do not run"):
        prove_hooks(datapath, other_cgroup)


def test_a_policy_that_forbids_to_connect_is_no_proof(
    datapath: Datapath, other_cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody was translated, and nobody was let pass: that is not what dead hooks look like."""
    for number in (errno.EPERM, errno.EACCES):
        answers = {address: [str(number)] for address in (CANARY_IPV4, CANARY_IPV6)}
        monkeypatch.setattr(canary, "_ask", lambda cgroup, a=answers: a)
        with pytest.raises(UnsupportedKernel, match="cannot connect") as raised:
            prove_hooks(datapath, other_cgroup)
        assert not isinstance(raised.value, HooksDead)


def test_a_cgroup_that_no_process_may_join_is_no_proof(datapath: Datapath, tmp_path: Path) -> None:
    """The child did not get there."""
    with pytest.raises(UnsupportedKernel, match="no process in") as raised:
        prove_hooks(datapath, tmp_path / "none")
    assert not isinstance(raised.value, HooksDead)


def test_missing_getpeername_is_noticed(
    places: Places, datapath: Datapath, other_cgroup: Path
) -> None:
    """connect alone is not enough."""
    chosen = {name: p for name, p in datapath.programs.items() if "connect" in name}
    links = attach(chosen, other_cgroup)
    try:
        with pytest.raises(UnsupportedKernel, match="getpeername shows 127.0.0.1"):
            prove_hooks(datapath, other_cgroup)
    finally:
        close_all(links.values())


def test_the_cgroup_root_is_found(tmp_path: Path) -> None:
    """The whole hierarchy is preferred to a part of it; without any the error says what to do."""
    assert is_real_root(find_cgroup_root())
    line = "{0} 1 0:37 {1} {2} rw shared:5 - {3} {3} rw\n"
    mounts = tmp_path / "mountinfo"
    part = line.format(1, "/kubepods/x", "/a\\040part", "cgroup2")
    mounts.write_text(part + line.format(2, "/", "/whole", "cgroup2"))
    assert find_cgroup_root(mounts) == Path("/whole")
    mounts.write_text(part)
    assert find_cgroup_root(mounts) == Path("/a part")
    mounts.write_text(line.format(1, "/", "/sys/fs/cgroup/cpu", "cgroup"))
    with pytest.raises(UnsupportedKernel, match="no cgroup2 file system is mounted"):
        find_cgroup_root(mounts)


def test_the_kernel_is_probed(tmp_path: Path) -> None:
    """What the hooks ran on is complete; a kernel without BTF is refused in a sentence."""
    features = probe_kernel()
    require(features)
    assert {f.name for f in features if not f.present and f.necessary} == set()
    with pytest.raises(UnsupportedKernel, match="BTF is not available.*CONFIG_DEBUG_INFO_BTF"):
        require(probe_kernel(tmp_path / "none"))
    require([Feature("luxury", False, "nothing", necessary=False)])


def test_a_kernel_without_the_cookie_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The option with which a process learns its own namespace is newer than the helper."""

    def refuse() -> int:
        raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))

    monkeypatch.setattr(probe, "netns_cookie", refuse)
    with pytest.raises(UnsupportedKernel, match="SO_NETNS_COOKIE is not available.*Linux 5.14"):
        require(probe_kernel())


def test_a_file_system_of_our_own_is_told(tmp_path: Path) -> None:
    """Pins on a BPF file system that we mounted end with this mount namespace: a warning, once."""
    path = tmp_path / "bpf"
    with structlog.testing.capture_logs() as logged:
        ensure_bpffs(path)
        try:
            ensure_bpffs(path / "pins")
        finally:
            subprocess.run(["umount", path], check=True)
    (event,) = logged
    assert (event["event"], event["log_level"]) == ("bpffs_mounted", "warning")
    assert event["path"] == str(path)


def _mapped_canary() -> bytes:
    return bytes(10) + b"\xff\xff" + bytes(int(part) for part in CANARY_IPV4.split("."))
