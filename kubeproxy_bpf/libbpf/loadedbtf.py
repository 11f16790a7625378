# SPDX-License-Identifier: Apache-2.0
"""The types of programs and maps that are in the kernel already, whoever loaded them."""

from __future__ import annotations

from ctypes import addressof, create_string_buffer

from . import _native
from ._structs import BtfInfoStruct
from .btf import Btf
from .errors import check
from .ownedfd import OwnedFd, fill_info


def loaded_btf(id: int) -> Btf:
    """Read the types that a program or a map names by this id.

    Raises:
        LibbpfError: there is none, or it is not ours to see.
        BtfError: it makes no sense to us.
    """
    with OwnedFd(check(_native.bpf_btf_get_fd_by_id(id), "bpf_btf_get_fd_by_id", str(id))) as btf:
        sized = BtfInfoStruct()
        fill_info(btf.fd, sized)
        raw = create_string_buffer(sized.btf_size)
        fill_info(btf.fd, BtfInfoStruct(btf=addressof(raw), btf_size=sized.btf_size))
        return Btf.parse(raw.raw)
