# SPDX-License-Identifier: Apache-2.0
"""Runs a packet program on one packet after the other with nothing in between.

The same as ``testrun.run``, whose buffers are made anew for every packet; here they stand, so that
a test gets through a hundred thousand packets a second. To be used inside the node's namespace.
"""

from __future__ import annotations

import errno
import struct
from ctypes import addressof, byref, create_string_buffer, memmove, sizeof, string_at
from typing import NamedTuple

from kubeproxy_bpf.libbpf import ObjectProgram, _native
from kubeproxy_bpf.libbpf._structs import RunOpts
from tests.bpf.packet.hooks import skb

LONGEST = 9000
LOOPBACK = 1
_ROOM = LONGEST + 1024
UNSPEC, SHOT, REDIRECT = 0xFFFFFFFF, 2, 7
XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = 1, 2, 3, 4
_OF_XDP = {XDP_DROP: SHOT, XDP_PASS: UNSPEC, XDP_TX: REDIRECT, XDP_REDIRECT: REDIRECT}
_OF_TC = {UNSPEC: UNSPEC, SHOT: SHOT, REDIRECT: REDIRECT}


class Out(NamedTuple):
    """What became of a packet."""

    verdict: int
    """UNSPEC, SHOT or REDIRECT, of XDP too."""
    data: bytes


class Trial:
    """One program at one device."""

    def __init__(self, program: ObjectProgram, ifindex: int, header: int) -> None:
        """``header`` is the length of the link header that packets have there."""
        self.name = program.name
        self.header = header
        self.is_of_host = ifindex == LOOPBACK or "egress" in program.name
        self.run_count = 0
        self.refused = 0
        self._fd = program.fd
        self._xdp = program.name == "kpb_xdp"
        self._verdicts = _OF_XDP if self._xdp else _OF_TC
        context = struct.pack("=6I", 0, 0, 0, ifindex, 0, 0) if self._xdp else skb(ifindex)
        self._in, self._out = create_string_buffer(_ROOM), create_string_buffer(_ROOM)
        self._context = create_string_buffer(context, len(context))
        self._context_out = create_string_buffer(len(context))
        self._opts = RunOpts(
            sz=sizeof(RunOpts),
            repeat=1,
            data_in=addressof(self._in),
            data_out=addressof(self._out),
            ctx_in=addressof(self._context),
            ctx_out=addressof(self._context_out),
            ctx_size_in=len(context),
            ctx_size_out=len(context),
        )
        self._from, self._to = addressof(self._in), addressof(self._out)
        self._reference = byref(self._opts)

    def run(self, data: bytes) -> Out | None:
        """None if the kernel makes no packet of such a length for a trial."""
        opts = self._opts
        memmove(self._from, data, len(data))
        opts.data_size_in, opts.data_size_out = len(data), _ROOM
        opts.ctx_size_out = opts.ctx_size_in
        if self._xdp:
            struct.pack_into("=I", self._context, 4, len(data))
        error = _native.bpf_prog_test_run_opts(self._fd, self._reference)
        if error:
            assert error == -errno.EINVAL, f"{self.name}: {error} for {data.hex()}"
            self.refused += 1
            return None
        self.run_count += 1
        verdict = self._verdicts.get(opts.retval)
        assert verdict is not None, f"{self.name} returns {opts.retval} for {data.hex()}"
        return Out(verdict, string_at(self._to, opts.data_size_out))
