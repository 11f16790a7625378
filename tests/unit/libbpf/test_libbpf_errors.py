# SPDX-License-Identifier: Apache-2.0
"""Return codes become exceptions; absent functions become stand-ins."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kubeproxy_bpf.libbpf import BatchError, LibbpfError, MissingSymbol, VerifierError, _native
from kubeproxy_bpf.libbpf.errors import check
from kubeproxy_bpf.libbpf.ownedfd import OwnedFd

ROOT = Path(__file__).parents[3]


def test_a_result_that_is_no_error_is_returned() -> None:
    """Descriptors, counts and pointers pass through."""
    assert [0, 7] == [check(0, "call"), check(7, "call")]


def test_a_negative_result_is_an_errno() -> None:
    """The exception carries errno, call and object."""
    with pytest.raises(LibbpfError) as caught:
        check(-errno.EPERM, "bpf_map_create", "kpb_vips")

    error = caught.value
    assert (errno.EPERM, "bpf_map_create", "kpb_vips") == (error.errno, error.call, error.object)
    assert "bpf_map_create(kpb_vips): Operation not permitted [EPERM]" == str(error)


def test_a_null_pointer_leaves_its_errno_behind() -> None:
    """NULL takes the errno that the C function set."""
    ctypes.set_errno(errno.ENOENT)

    with pytest.raises(LibbpfError) as caught:
        check(None, "bpf_object__open_mem")

    assert errno.ENOENT == caught.value.errno


@pytest.mark.parametrize(("code", "text"), [(524, "ENOTSUPP"), (4001, "not a valid BPF object")])
def test_codes_unknown_to_the_c_library_have_words(code: int, text: str) -> None:
    """No user reads «Unknown error»."""
    assert text in str(LibbpfError(code, "call"))


def test_a_batch_error_says_how_far_it_came() -> None:
    """The count is a field and stands in the text."""
    error = BatchError(errno.E2BIG, "bpf_map_update_batch", "kpb_vips", 12)

    assert 12 == error.done
    assert str(error).endswith("[E2BIG] (after 12 elements)")


@pytest.mark.parametrize(
    ("log", "last"),
    [
        ("0: r0 = 0\nR0 !read_ok\nprocessed 1 insns (limit 1000000)\n\n", "R0 !read_ok"),
        ("R1 bad\nverification time 12 usec\nstack depth 8\nprocessed 3 insns\n", "R1 bad"),
        ("processed 3 insns\n", "Permission denied [EACCES]"),
    ],
)
def test_the_last_useful_line_explains_a_refusal(log: str, last: str) -> None:
    """Statistics after the reason are not the reason."""
    error = VerifierError(errno.EACCES, "kpb_connect4", log)

    assert f"program kpb_connect4 was refused: {last}" == str(error)
    assert log == error.log


def test_an_absent_function_says_which_version_has_it() -> None:
    """Importing works with an old library; calling names the symbol and both versions."""
    old = SimpleNamespace(libbpf_major_version=lambda: 0, libbpf_minor_version=lambda: 8)
    function = _native.bind(old, "bpf_future_call", ctypes.c_int, (ctypes.c_int,))

    with pytest.raises(MissingSymbol) as caught:
        function(1)

    assert "bpf_future_call needs libbpf 1.1 or newer, found 0.8" == str(caught.value)
    assert errno.ENOSYS == caught.value.errno


def test_an_absent_library_is_one_clear_error() -> None:
    """Without any libbpf each call says what to install."""
    library = _native.open_library("libbpf.so.no-such-version")
    function = _native.bind(library, "bpf_obj_get", ctypes.c_int, (ctypes.c_char_p,))

    with pytest.raises(MissingSymbol) as caught:
        function(b"/")

    assert "libbpf.so.1 was not found: install libbpf 1.1 or newer" == str(caught.value)


def test_the_installed_library_has_all_functions() -> None:
    """Nothing that we call is missing from the oldest supported version."""
    missing = [n for n, f in vars(_native).items() if isinstance(f, _native.StandIn)]

    assert [] == missing


def test_the_stub_matches_the_functions() -> None:
    """_native.pyi is what tools/gen_stub.py makes of _native.py."""
    command = [sys.executable, str(ROOT / "tools" / "gen_stub.py"), "--check"]

    assert 0 == subprocess.run(command, check=False).returncode


def test_a_descriptor_is_closed_once() -> None:
    """A second close() does not hit somebody else's descriptor."""
    owned = OwnedFd(os.open(os.devnull, os.O_RDONLY))
    number = owned.fd
    owned.close()
    other = os.open(os.devnull, os.O_RDONLY)
    try:
        assert number == other
        owned.close()
        os.fstat(other)
        assert owned.closed
    finally:
        os.close(other)


def test_a_forgotten_descriptor_is_closed_by_its_process_only() -> None:
    """The collector closes in the parent, and leaves a forked child's table alone."""
    fd = os.open(os.devnull, os.O_RDONLY)
    owned = OwnedFd(fd)
    child = os.fork()
    if child == 0:
        del owned
        os._exit(0 if os.path.exists(f"/proc/self/fd/{fd}") else 1)
    _, status = os.waitpid(child, 0)
    del owned

    assert 0 == os.waitstatus_to_exitcode(status)
    assert not os.path.exists(f"/proc/self/fd/{fd}")
