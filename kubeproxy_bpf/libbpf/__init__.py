# SPDX-License-Identifier: Apache-2.0
"""libbpf for Python: objects, programs, maps, links and types, with lifetimes and exceptions.

Three floors: ``_native`` names the C functions, the classes below own what they return, and
``abc`` states what replacements must offer. No pointer leaves this package, and it knows nothing
of the rest of the project. Calls block: run them in a thread where an event loop must go on.
"""

from .attachment import (
    XdpPrograms,
    prog_attach,
    prog_detach,
    xdp_attach,
    xdp_detach,
    xdp_programs,
)
from .bpflink import ChainEntry, IterLink, Link, LinkInfo, device_chain, prog_query
from .bpfmap import BpfMap
from .bpfobject import BpfObject
from .bpfprogram import Program, ProgramInfo
from .btf import Btf
from .closing import Closing
from .enums import (
    AttachFlag,
    AttachType,
    LinkType,
    MapFlag,
    MapType,
    ProgramType,
    UpdateFlag,
)
from .errors import (
    BatchError,
    BtfError,
    LibbpfError,
    MissingSymbol,
    VerifierError,
)
from .ids import link_ids, program_ids
from .kernel import enable_stats, libbpf_version, possible_cpus
from .loadedbtf import loaded_btf
from .mapinfo import MapInfo
from .objectparts import ObjectMap, ObjectProgram
from .ownedfd import object_id, pinned_id
from .testrun import RunResult

__all__ = [
    "AttachFlag",
    "AttachType",
    "BatchError",
    "BpfMap",
    "BpfObject",
    "Btf",
    "BtfError",
    "ChainEntry",
    "Closing",
    "IterLink",
    "LibbpfError",
    "Link",
    "LinkInfo",
    "LinkType",
    "MapFlag",
    "MapInfo",
    "MapType",
    "MissingSymbol",
    "ObjectMap",
    "ObjectProgram",
    "Program",
    "ProgramInfo",
    "ProgramType",
    "RunResult",
    "UpdateFlag",
    "VerifierError",
    "XdpPrograms",
    "device_chain",
    "enable_stats",
    "libbpf_version",
    "link_ids",
    "loaded_btf",
    "object_id",
    "pinned_id",
    "possible_cpus",
    "prog_attach",
    "prog_detach",
    "prog_query",
    "program_ids",
    "xdp_attach",
    "xdp_detach",
    "xdp_programs",
]
