# SPDX-License-Identifier: Apache-2.0
"""Second copies of programs, for the moment in which one changes its place.

The kernel does not let a program stand twice at a hook, so a copy on the same maps does its work
while it moves. Copies are loaded when they are asked for, and let go of soon: the verifier takes
tenths of a second for each, and losing a place is rare. Used by ``devices``.
"""

from __future__ import annotations

from typing import Callable

import structlog

from kubeproxy_bpf.dataplane.loader import Datapath
from kubeproxy_bpf.errors import UnsupportedKernel
from kubeproxy_bpf.libbpf import LibbpfError, ObjectProgram

_log = structlog.get_logger(__name__)

LoadCopy = Callable[[str], Datapath]
"""Loads the program of this name once more, on the maps that it has."""


class Spares:
    """The copies that are loaded at the moment."""

    def __init__(self, load: LoadCopy | None) -> None:
        self._load = load
        self._loaded: dict[str, Datapath | None] = {}

    def get(self, name: str) -> ObjectProgram | None:
        """A copy of a program; None if there is no way to one."""
        if name not in self._loaded:
            self._loaded[name] = self._copy(name)
        copy = self._loaded[name]
        return copy.programs[name] if copy is not None else None

    def close(self) -> None:
        """Let go of all copies; one that is attached stays so."""
        for copy in self._loaded.values():
            if copy is not None:
                copy.close()
        self._loaded.clear()

    def _copy(self, name: str) -> Datapath | None:
        if self._load is None:
            return None
        try:
            return self._load(name)
        except (UnsupportedKernel, LibbpfError) as error:
            _log.warning("program_not_copied", program=name, error=str(error))
            return None
