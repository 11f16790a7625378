# SPDX-License-Identifier: Apache-2.0
"""The functions of libbpf that we call: names, argument types and result types, one to one.

No logic lives here, and nothing outside this package imports it. ``_native.pyi`` is generated
from the types below by ``tools/gen_stub.py``. A function that the installed libbpf lacks becomes
a stand-in, so that importing never fails and the first use says what is missing.
"""

from __future__ import annotations

import platform
from ctypes import (
    CDLL,
    POINTER,
    c_bool,
    c_char_p,
    c_int,
    c_long,
    c_size_t,
    c_uint,
    c_uint32,
    c_uint64,
    c_void_p,
)
from typing import Any

from ._structs import (
    BatchOpts,
    LinkUpdateOpts,
    MapCreateOpts,
    OpenOpts,
    PrintFn,
    RunOpts,
    XdpAttachOpts,
    XdpQueryOpts,
)
from .errors import MissingSymbol

LIBRARY = "libbpf.so.1"
MINIMUM = (1, 1)


class StandIn:
    """Takes the place of a function that the library lacks, and says so when called."""

    def __init__(self, name: str, needs: tuple[int, int], found: tuple[int, int] | None) -> None:
        self.name = name
        self.needs = needs
        self.found = found

    def __call__(self, *arguments: object) -> Any:
        raise MissingSymbol(self.name, self.needs, self.found)


def open_library(name: str) -> CDLL | None:
    """Load a shared library; None when the system has none."""
    try:
        return CDLL(name, use_errno=True)
    except OSError:
        return None


def version_of(library: Any) -> tuple[int, int] | None:
    """Ask a libbpf for its version; None when there is no library."""
    if library is None:
        return None
    return library.libbpf_major_version(), library.libbpf_minor_version()


def bind(library: Any, name: str, restype: Any, argtypes: tuple[Any, ...]) -> Any:
    """Give a function of the library its types, or a stand-in for it."""
    function = getattr(library, name, None) or StandIn(name, MINIMUM, version_of(library))
    function.restype = restype
    function.argtypes = argtypes
    return function


_libbpf = open_library(LIBRARY)
_libc = CDLL(None, use_errno=True)

VERSION = version_of(_libbpf)

# bpf(2) has no wrapper in the C library; its number differs by architecture.
SYS_BPF = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "ppc64le": 361,
    "s390x": 351,
}.get(platform.machine(), 280)


def _f(name: str, restype: Any, *argtypes: Any) -> Any:
    return bind(_libbpf, name, restype, argtypes)


# C library
syscall = bind(_libc, "syscall", c_long, (c_long, c_long, c_void_p, c_uint))
vsnprintf = bind(_libc, "vsnprintf", c_int, (c_void_p, c_size_t, c_char_p, c_void_p))

# library
libbpf_set_print = _f("libbpf_set_print", c_void_p, PrintFn)
libbpf_num_possible_cpus = _f("libbpf_num_possible_cpus", c_int)

# objects
bpf_object__open_mem = _f("bpf_object__open_mem", c_void_p, c_void_p, c_size_t, POINTER(OpenOpts))
bpf_object__load = _f("bpf_object__load", c_int, c_void_p)
bpf_object__close = _f("bpf_object__close", None, c_void_p)
bpf_object__btf = _f("bpf_object__btf", c_void_p, c_void_p)
bpf_object__next_program = _f("bpf_object__next_program", c_void_p, c_void_p, c_void_p)
bpf_object__next_map = _f("bpf_object__next_map", c_void_p, c_void_p, c_void_p)
btf__raw_data = _f("btf__raw_data", c_void_p, c_void_p, POINTER(c_uint32))

# programs of an object
bpf_program__name = _f("bpf_program__name", c_char_p, c_void_p)
bpf_program__fd = _f("bpf_program__fd", c_int, c_void_p)
bpf_program__autoload = _f("bpf_program__autoload", c_bool, c_void_p)
bpf_program__set_autoload = _f("bpf_program__set_autoload", c_int, c_void_p, c_bool)
bpf_program__type = _f("bpf_program__type", c_int, c_void_p)
bpf_program__expected_attach_type = _f("bpf_program__expected_attach_type", c_int, c_void_p)
bpf_program__set_log_buf = _f("bpf_program__set_log_buf", c_int, c_void_p, c_void_p, c_size_t)

# maps of an object
bpf_map__name = _f("bpf_map__name", c_char_p, c_void_p)
bpf_map__fd = _f("bpf_map__fd", c_int, c_void_p)
bpf_map__is_internal = _f("bpf_map__is_internal", c_bool, c_void_p)
bpf_map__type = _f("bpf_map__type", c_int, c_void_p)
bpf_map__map_flags = _f("bpf_map__map_flags", c_uint32, c_void_p)
bpf_map__key_size = _f("bpf_map__key_size", c_uint32, c_void_p)
bpf_map__value_size = _f("bpf_map__value_size", c_uint32, c_void_p)
bpf_map__max_entries = _f("bpf_map__max_entries", c_uint32, c_void_p)
bpf_map__set_max_entries = _f("bpf_map__set_max_entries", c_int, c_void_p, c_uint32)
bpf_map__set_autocreate = _f("bpf_map__set_autocreate", c_int, c_void_p, c_bool)
bpf_map__set_pin_path = _f("bpf_map__set_pin_path", c_int, c_void_p, c_char_p)
bpf_map__reuse_fd = _f("bpf_map__reuse_fd", c_int, c_void_p, c_int)
bpf_map__initial_value = _f("bpf_map__initial_value", c_void_p, c_void_p, POINTER(c_size_t))
bpf_map__set_initial_value = _f("bpf_map__set_initial_value", c_int, c_void_p, c_void_p, c_size_t)

# maps by descriptor
bpf_map_create = _f(
    "bpf_map_create", c_int, c_int, c_char_p, c_uint32, c_uint32, c_uint32, POINTER(MapCreateOpts)
)
bpf_map_get_fd_by_id = _f("bpf_map_get_fd_by_id", c_int, c_uint32)
bpf_map_lookup_elem = _f("bpf_map_lookup_elem", c_int, c_int, c_void_p, c_void_p)
bpf_map_update_elem = _f("bpf_map_update_elem", c_int, c_int, c_void_p, c_void_p, c_uint64)
bpf_map_delete_elem = _f("bpf_map_delete_elem", c_int, c_int, c_void_p)
bpf_map_get_next_key = _f("bpf_map_get_next_key", c_int, c_int, c_void_p, c_void_p)
bpf_map_freeze = _f("bpf_map_freeze", c_int, c_int)
bpf_map_update_batch = _f(
    "bpf_map_update_batch", c_int, c_int, c_void_p, c_void_p, POINTER(c_uint32), POINTER(BatchOpts)
)
bpf_map_delete_batch = _f(
    "bpf_map_delete_batch", c_int, c_int, c_void_p, POINTER(c_uint32), POINTER(BatchOpts)
)
bpf_map_lookup_batch = _f(
    "bpf_map_lookup_batch",
    c_int,
    c_int,
    c_void_p,
    c_void_p,
    c_void_p,
    c_void_p,
    POINTER(c_uint32),
    POINTER(BatchOpts),
)

# any descriptor
bpf_obj_pin = _f("bpf_obj_pin", c_int, c_int, c_char_p)
bpf_obj_get = _f("bpf_obj_get", c_int, c_char_p)
bpf_obj_get_info_by_fd = _f("bpf_obj_get_info_by_fd", c_int, c_int, c_void_p, POINTER(c_uint32))

# programs and links by descriptor
bpf_prog_get_fd_by_id = _f("bpf_prog_get_fd_by_id", c_int, c_uint32)
bpf_prog_test_run_opts = _f("bpf_prog_test_run_opts", c_int, c_int, POINTER(RunOpts))
bpf_prog_query = _f(
    "bpf_prog_query",
    c_int,
    c_int,
    c_int,
    c_uint32,
    POINTER(c_uint32),
    POINTER(c_uint32),
    POINTER(c_uint32),
)
bpf_link_get_fd_by_id = _f("bpf_link_get_fd_by_id", c_int, c_uint32)
bpf_link_update = _f("bpf_link_update", c_int, c_int, c_int, POINTER(LinkUpdateOpts))
bpf_link_detach = _f("bpf_link_detach", c_int, c_int)
bpf_btf_get_fd_by_id = _f("bpf_btf_get_fd_by_id", c_int, c_uint32)
bpf_xdp_attach = _f("bpf_xdp_attach", c_int, c_int, c_int, c_uint32, POINTER(XdpAttachOpts))
bpf_xdp_query = _f("bpf_xdp_query", c_int, c_int, c_int, POINTER(XdpQueryOpts))
bpf_iter_create = _f("bpf_iter_create", c_int, c_int)
bpf_enable_stats = _f("bpf_enable_stats", c_int, c_int)
