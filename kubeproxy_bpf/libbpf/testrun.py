# SPDX-License-Identifier: Apache-2.0
"""Runs a program once or many times on given bytes, without attaching it (BPF_PROG_TEST_RUN).

Packet programs (XDP, TC) and syscall programs can; cgroup programs cannot (ENOTSUPP). ``send`` is
the other kind of run, in which the verdict of an XDP program is carried out.
"""

from __future__ import annotations

from ctypes import addressof, byref, create_string_buffer, sizeof
from typing import NamedTuple

from . import _native
from ._structs import RunOpts, XdpMd
from .errors import check

_HEADROOM = 512  # a program may grow the packet
_XDP_LIVE_FRAMES = 2


class RunResult(NamedTuple):
    """What a program made of its input."""

    retval: int
    data: bytes
    ctx: bytes
    duration_ns: int  # mean of all repetitions


def run(fd: int, data: bytes = b"", repeat: int = 1, ctx: bytes = b"") -> RunResult:
    """Run a program on a packet, a context, or both."""
    opts = RunOpts(sz=sizeof(RunOpts), repeat=repeat)
    data_in = create_string_buffer(data, max(len(data), 1))
    data_out = create_string_buffer(len(data) + _HEADROOM)
    ctx_in = create_string_buffer(ctx, max(len(ctx), 1))
    ctx_out = create_string_buffer(max(len(ctx), 1))
    if data:
        opts.data_in, opts.data_size_in = addressof(data_in), len(data)
        opts.data_out, opts.data_size_out = addressof(data_out), len(data_out)
    if ctx:
        opts.ctx_in, opts.ctx_size_in = addressof(ctx_in), len(ctx)
        opts.ctx_out, opts.ctx_size_out = addressof(ctx_out), len(ctx)
    check(_native.bpf_prog_test_run_opts(fd, byref(opts)), "bpf_prog_test_run_opts")
    return RunResult(
        retval=opts.retval,
        data=data_out.raw[: opts.data_size_out],
        ctx=ctx_out.raw[: opts.ctx_size_out],
        duration_ns=opts.duration,
    )


def send(fd: int, frame: bytes, count: int, ifindex: int, batch: int = 0) -> int:
    """Let an XDP program see frames as if a device had received them, and do what it says.

    XDP_TX and redirected frames leave for good, XDP_PASS hands them to the stack. The kernel takes
    the device from the caller's network namespace, makes ``batch`` frames at a time (0: its own
    choice) and uses them again: a program finds what it wrote the last time. Returns the mean time
    of a frame in ns.
    """
    data = create_string_buffer(frame, len(frame))
    ctx = XdpMd(data_end=len(frame), ingress_ifindex=ifindex)
    opts = RunOpts(sz=sizeof(RunOpts), repeat=count, flags=_XDP_LIVE_FRAMES, batch_size=batch)
    opts.data_in, opts.data_size_in = addressof(data), len(frame)
    opts.ctx_in, opts.ctx_size_in = addressof(ctx), sizeof(ctx)
    check(_native.bpf_prog_test_run_opts(fd, byref(opts)), "bpf_prog_test_run_opts", "live frames")
    return int(opts.duration)
