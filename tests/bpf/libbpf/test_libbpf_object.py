# SPDX-License-Identifier: Apache-2.0
"""Opening, adjusting and loading an object file."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kubeproxy_bpf.libbpf import BpfMap, BpfObject, LibbpfError, VerifierError

pytestmark = pytest.mark.root

PACKET = bytes(64)


def config_offset(bpf_object: BpfObject, member: str) -> int:
    """Find a member of the configuration inside ``.rodata``."""
    section = bpf_object.btf.datasecs[".rodata"]
    base = next(v.offset for v in section.variables if v.name == "config")
    members = bpf_object.btf.structs["config"].members
    return base + next(m.offset for m in members if m.name == member)


def test_an_object_lists_its_programs_and_maps(opened: BpfObject) -> None:
    """Programs and maps are found by name, sections of variables by their section."""
    assert {"t_count", "t_refused", "t_allow", "t_deny", "t_pass", "t_sockets"} == set(
        opened.programs
    )
    assert {"t_hash", "t_array", "t_lru", "t_percpu", "t_storage", ".rodata"} == set(opened.maps)


def test_an_object_opens_from_memory(image: Path) -> None:
    """The bytes of a file are as good as its path."""
    with BpfObject.open(image.read_bytes(), name="memory") as bpf_object:
        assert "t_count" in bpf_object.programs


def test_an_initial_value_reaches_the_programs(opened: BpfObject) -> None:
    """What is written into .rodata before loading is what programs read."""
    offset = config_offset(opened, "verdict")
    opened.maps[".rodata"].initial_value[offset : offset + 4] = (1).to_bytes(4, "little")

    opened.load()

    assert 1 == opened.programs["t_count"].test_run(PACKET).retval


def test_an_initial_value_outlives_its_object(image: Path) -> None:
    """A view kept after closing is ordinary memory of Python."""
    with BpfObject.open(image) as bpf_object:
        view = bpf_object.maps[".rodata"].initial_value

    view[0] = 7

    assert 7 == view[0]


def test_a_map_can_be_resized_before_loading(opened: BpfObject) -> None:
    """The created map has the size that was set."""
    opened.maps["t_hash"].max_entries = 5000

    opened.load()

    with opened.maps["t_hash"].map as created:
        assert 5000 == created.max_entries == opened.maps["t_hash"].max_entries


def test_a_program_can_be_left_out(opened: BpfObject) -> None:
    """A program without autoload has no descriptor after loading."""
    opened.programs["t_deny"].set_autoload(False)

    opened.load()

    assert opened.programs["t_allow"].fd > 0
    with pytest.raises(LibbpfError):
        opened.programs["t_deny"].fd


def test_a_map_can_be_left_out(opened: BpfObject) -> None:
    """A map without autocreate has no descriptor after loading."""
    opened.maps["t_storage"].set_autocreate(False)

    opened.load()

    with pytest.raises(LibbpfError):
        opened.maps["t_storage"].map


def test_an_existing_map_is_taken_over(opened: BpfObject) -> None:
    """Programs use the map given to reuse() instead of a new one."""
    with BpfMap.create(2, "kpbt_other", 4, 16, 1000, 1 << 10) as existing:
        opened.maps["t_array"].reuse(existing)
        opened.load()
        opened.programs["t_count"].test_run(PACKET)

        with opened.maps["t_array"].map as used:
            assert existing.info().id == used.info().id
        assert (1).to_bytes(8, "little") == (existing.lookup((3).to_bytes(4, "little")) or b"")[:8]


def test_a_pin_path_shares_a_map_between_objects(image: Path, bpffs: Path) -> None:
    """The second object with the same pin path uses the first one's map."""
    ids = []
    for _ in range(2):
        with BpfObject.open(image) as bpf_object:
            bpf_object.maps["t_array"].set_pin_path(bpffs / "shared")
            bpf_object.load()
            with bpf_object.maps["t_array"].map as shared:
                ids.append(shared.info().id)

    assert ids[0] == ids[1]


def test_a_refused_program_is_named_with_the_reason(opened: BpfObject) -> None:
    """VerifierError carries the whole log and shows the line that explains."""
    opened.programs["t_refused"].set_autoload(True)

    with pytest.raises(VerifierError) as caught:
        opened.load()

    error = caught.value
    assert (errno.EACCES, "t_refused") == (error.errno, error.program)
    assert "program t_refused was refused: R1 offset is outside of the packet" == str(error)
    assert "invalid access to packet" in error.log
    assert "processed 2 insns" in error.log


def test_a_failure_without_a_refusal_is_no_verifier_error(opened: BpfObject) -> None:
    """A map that cannot be created names the object and the errno."""
    opened.maps["t_hash"].max_entries = 0

    with pytest.raises(LibbpfError) as caught:
        opened.load()

    assert not isinstance(caught.value, VerifierError)
    assert errno.EINVAL == caught.value.errno


def test_loading_twice_is_refused(loaded: BpfObject) -> None:
    """An object loads once."""
    with pytest.raises(LibbpfError):
        loaded.load()


def test_parts_of_a_closed_object_raise(image: Path) -> None:
    """No freed memory is reached through a program or map of a closed object."""
    with BpfObject.open(image) as bpf_object:
        program, object_map = bpf_object.programs["t_count"], bpf_object.maps["t_hash"]
    bpf_object.close()

    with pytest.raises(ValueError, match="closed"):
        program.expected_attach_type
    with pytest.raises(ValueError, match="closed"):
        object_map.max_entries


def test_a_map_outlives_its_object(image: Path) -> None:
    """The map has a descriptor of its own."""
    with BpfObject.open(image) as bpf_object:
        bpf_object.load()
        array = bpf_object.maps["t_array"].map

    with array:
        assert bytes(16) == array.lookup(bytes(4))
