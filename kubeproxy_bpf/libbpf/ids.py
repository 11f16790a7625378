# SPDX-License-Identifier: Apache-2.0
"""All programs and links of the kernel, by id: how an object is found that nobody has pinned.

Needs CAP_SYS_ADMIN, as does opening what is found. Used by ``dataplane.owned`` and ``inventory``.
"""

from __future__ import annotations

import errno
from typing import Iterator

from ._structs import NextIdAttr
from .errors import LibbpfError
from .kernel import bpf_call

_PROG_GET_NEXT_ID = 11
_LINK_GET_NEXT_ID = 31


def program_ids() -> Iterator[int]:
    """Go through the programs in the order of their ids; some may be gone when they are opened."""
    return _walk(_PROG_GET_NEXT_ID, "bpf_prog_get_next_id")


def link_ids() -> Iterator[int]:
    """Go through the links in the order of their ids; some may be gone when they are opened."""
    return _walk(_LINK_GET_NEXT_ID, "bpf_link_get_next_id")


def _walk(command: int, name: str) -> Iterator[int]:
    attr = NextIdAttr()
    while True:
        try:
            bpf_call(command, attr, name)
        except LibbpfError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        yield attr.next_id
        attr.start_id = attr.next_id
