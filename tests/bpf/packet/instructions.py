# SPDX-License-Identifier: Apache-2.0
"""How large loaded programs are, and how much of them the verifier walked through.

Used by the test of the switches, which records the figures, and by the benchmark.
"""

from __future__ import annotations

from typing import Mapping, NamedTuple

from kubeproxy_bpf.libbpf import ObjectProgram

VERIFIER_LIMIT = 1_000_000
"""Instructions that the kernel walks through before it gives up."""
_INSTRUCTION_BYTES = 8


class ProgramSize(NamedTuple):
    program: str
    instructions: int
    """After the verifier removed what the settings switch off."""
    verified: int
    """Instructions that the verifier walked through, over all paths."""
    machine_code_bytes: int


def program_sizes(programs: Mapping[str, ObjectProgram]) -> list[ProgramSize]:
    """The sizes of loaded programs, by name."""
    sizes = []
    for name, program in sorted(programs.items()):
        info = program.info()
        instructions = info.xlated_bytes // _INSTRUCTION_BYTES
        sizes.append(ProgramSize(name, instructions, info.verified_insns, info.jited_bytes))
    return sizes
