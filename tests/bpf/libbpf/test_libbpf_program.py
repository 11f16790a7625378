# SPDX-License-Identifier: Apache-2.0
"""Loaded programs: what is known of them, trial runs, statistics."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from kubeproxy_bpf.libbpf import (
    AttachType,
    BpfObject,
    LibbpfError,
    Program,
    ProgramType,
    enable_stats,
)
from kubeproxy_bpf.libbpf.errors import ENOTSUPP

pytestmark = pytest.mark.root

PACKET = bytes(range(64))
XDP_PASS = 2


def test_info_tells_type_name_and_maps(loaded: BpfObject) -> None:
    """The info of a program leads to the maps that it uses."""
    info = loaded.programs["t_count"].info()
    with loaded.maps["t_array"].map as array:
        array_id = array.info().id

    assert (ProgramType.XDP, "t_count") == (info.type, info.name)
    assert 16 == len(info.tag)
    assert array_id in info.map_ids
    assert info.verified_insns > 0
    assert info.xlated_bytes > 0


def test_sections_say_where_programs_attach(opened: BpfObject) -> None:
    """The expected attach type comes from the section name."""
    programs = opened.programs

    assert AttachType.CGROUP_INET4_CONNECT == programs["t_allow"].expected_attach_type
    assert AttachType.TRACE_ITER == programs["t_sockets"].expected_attach_type


def test_a_trial_run_returns_verdict_and_packet(loaded: BpfObject) -> None:
    """The verdict, the packet as left behind, and a mean duration."""
    result = loaded.programs["t_count"].test_run(PACKET, repeat=3)

    assert (XDP_PASS, PACKET) == (result.retval, result.data)
    assert result.duration_ns >= 0


def test_live_frames_do_what_the_program_says(loaded: BpfObject) -> None:
    """The program sees each frame once, and those that it passes arrive at the device's stack."""
    ethertype = int.from_bytes(PACKET[12:14])
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ethertype)) as receiver:
        receiver.bind(("lo", ethertype))
        receiver.settimeout(5)
        loaded.programs["t_count"].send_frames(PACKET, 10, socket.if_nametoindex("lo"), batch=4)
        arrived = [receiver.recv(128) for _ in range(10)]
    with loaded.maps["t_array"].map as array:
        seen = array.lookup((3).to_bytes(4, sys.byteorder)) or b""

    assert [PACKET] * 10 == arrived
    assert 10 == int.from_bytes(seen[:8], sys.byteorder)


def test_cgroup_programs_have_no_trial_run(loaded: BpfObject) -> None:
    """The kernel's answer is an error with words of its own."""
    with pytest.raises(LibbpfError, match="not supported by this kernel") as caught:
        loaded.programs["t_allow"].test_run(PACKET)

    assert ENOTSUPP == caught.value.errno


def test_programs_are_found_by_id_and_pin(loaded: BpfObject, bpffs: Path) -> None:
    """Id and pin lead to the same program."""
    program = loaded.programs["t_count"]
    program.pin(bpffs / "program")

    with Program.open_pinned(bpffs / "program") as pinned:
        with Program.from_id(program.info().id) as by_id:
            assert program.info().tag == pinned.info().tag == by_id.info().tag
            assert "t_count" == by_id.name
            assert XDP_PASS == by_id.test_run(PACKET).retval


def test_statistics_count_runs_while_enabled(loaded: BpfObject) -> None:
    """Runs are counted between enabling and closing."""
    program = loaded.programs["t_count"]
    with enable_stats():
        before = program.info().run_cnt
        program.test_run(PACKET, repeat=100)
        counted = program.info()

    assert counted.run_cnt - before >= 100
    assert counted.run_time_ns > 0
