# SPDX-License-Identifier: Apache-2.0
"""What the instance decides without a kernel: which pins are ours, and what it must see."""

import asyncio
import errno
from pathlib import Path

import pytest
import structlog

from kubeproxy_bpf import instance as module
from kubeproxy_bpf.config.load import load
from kubeproxy_bpf.dataplane.loader import load_object
from kubeproxy_bpf.dataplane.lock import PinLock
from kubeproxy_bpf.dataplane.owned import Owner
from kubeproxy_bpf.dataplane.pinning import drop_maps
from kubeproxy_bpf.errors import UnsupportedKernel
from kubeproxy_bpf.instance import Instance
from kubeproxy_bpf.libbpf import LibbpfError, VerifierError


@pytest.fixture
def instance(tmp_path):
    return Instance(load([f"--bpf-pin-path={tmp_path}", "--hostname-override=n1"]))


def test_only_our_own_old_maps_are_dropped(tmp_path):
    """The pin path may be shared: other names stay, and so do other files in ours."""
    for name in ("links", "tc", "0123456789ab", "ba9876543210", "aaaaaaaaaaaa"):
        (tmp_path / name).mkdir()
    (tmp_path / "0123456789ab/kpb_vips").touch()
    (tmp_path / "aaaaaaaaaaaa/foreign").touch()
    (tmp_path / "tc/kpb_vips").touch()

    drop_maps(tmp_path, [tmp_path / "ba9876543210"])

    left = {str(path.relative_to(tmp_path)) for path in Path(tmp_path).rglob("*")}
    assert {"links", "tc", "tc/kpb_vips", "ba9876543210"} < left
    assert {"aaaaaaaaaaaa", "aaaaaaaaaaaa/foreign"} < left
    assert "0123456789ab" not in left


@pytest.fixture
def blind(monkeypatch):
    """A process that may not walk over the kernel's programs."""

    def refuse(_owned):
        raise LibbpfError(errno.EPERM, "bpf_prog_get_next_id")

    monkeypatch.setattr(module.Owned, "programs", refuse)


def test_without_pins_an_instance_must_see_its_programs(instance, blind):
    """What it needs is said in a sentence: otherwise everything would be attached twice."""
    with pytest.raises(UnsupportedKernel, match="CAP_SYS_ADMIN"):
        instance._recognition(Owner(1, 1))


def test_with_pins_an_instance_does_without(instance, blind, tmp_path):
    """It takes over what is pinned, as its capabilities allow."""
    instance._pins = tmp_path
    with structlog.testing.capture_logs() as logged:
        assert instance._recognition(Owner(1, 1)) is None
    assert ["running_programs_unknown"] == [each["event"] for each in logged]


async def test_pins_that_another_proxy_holds_are_waited_for(instance, monkeypatch, tmp_path):
    """It may be in another network namespace: nothing is loaded before it ends."""
    loaded = []

    def load_nothing():
        loaded.append(tmp_path)
        raise UnsupportedKernel("nothing", "of the test")

    monkeypatch.setattr(instance, "_prepare", lambda: tmp_path)
    monkeypatch.setattr(instance, "_load", load_nothing)
    holder, told = PinLock(tmp_path), asyncio.Event()
    try:
        assert holder.try_acquire()
        opening = asyncio.create_task(instance.open(told.set))
        await told.wait()
        assert not loaded
        holder.release()
        with pytest.raises(UnsupportedKernel):
            await opening
        assert loaded
        assert not holder.try_acquire()
        await instance.close()
        assert holder.try_acquire()
    finally:
        holder.release()
        await instance.close()


def test_unwanted_pins_stay_while_another_proxy_uses_them(instance, monkeypatch, tmp_path):
    """Without pins of its own a proxy drops those of earlier times, and no others."""
    dropped, holder = [], PinLock(tmp_path)
    monkeypatch.setattr(module, "has_bpffs", lambda path: True)
    monkeypatch.setattr(module, "drop_pins", dropped.append)
    try:
        assert holder.try_acquire()
        instance._drop_past_pins(tmp_path)
        assert not dropped
        holder.release()
        instance._drop_past_pins(tmp_path)
        assert dropped == [tmp_path]
        assert holder.try_acquire()
    finally:
        holder.release()


WANTING = LibbpfError(errno.ENOMEM, "bpf_map_create", "kpb_flows")
REFUSED = LibbpfError(errno.EINVAL, "bpf_map_create", "kpb_flows")
NO_MEMORY = VerifierError(errno.ENOMEM, "kpb_tc_ingress", "")


@pytest.mark.parametrize(
    ("error", "serves_already", "goes_on"),
    [
        (WANTING, True, False),
        (NO_MEMORY, True, False),
        (REFUSED, True, True),
        (WANTING, False, True),
        (UnsupportedKernel("BPF program kpb_tc_ingress", "it"), True, True),
    ],
)
def test_packet_programs_that_serve_are_not_given_up_for_a_lack_that_passes(
    instance, monkeypatch, error, serves_already, goes_on
):
    """An instance without packet programs ends those of an earlier process: for what the kernel
    refuses, not for want of memory; then it ends itself, and is started again."""

    def refuse(*_args, **_options):
        raise error

    monkeypatch.setattr(module, "load_packets", refuse)
    instance.serves_already = serves_already
    if goes_on:
        assert instance._load_packets(None, None) is None
    else:
        with pytest.raises(LibbpfError):
            instance._load_packets(None, None)


def test_a_program_for_which_memory_is_wanting_is_not_refused_by_the_kernel():
    """What the verifier says of the program is one thing, that it has no memory another."""

    class Loading:
        def load(self):
            raise NO_MEMORY

    with pytest.raises(VerifierError):
        load_object(Loading())
