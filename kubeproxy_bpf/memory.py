# SPDX-License-Identifier: Apache-2.0
"""How the process keeps its memory: when the cyclic collector looks, and what goes back at once.

Imports and the first sync make a million objects that stay: visiting them again and again would
cost the start a third of its CPU, and later each full collection would stop the process for tens
of milliseconds. So the collector visits little until the first sync, and never again what was there
by then; reference counts free those like any other. ``cli`` calls ``starting`` and ``imported``,
``app`` calls ``synced``.
"""

from __future__ import annotations

import ctypes
import gc

_START_THRESHOLD = 200_000
"""New containers that bring a collection before the first sync. Not "never": a proxy that cannot
reach its API server may wait for days, and each failure leaves a few cycles behind."""

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 128 * 1024
"""glibc's own default, but it would raise it to the largest block that was ever freed, and then
blocks of megabytes leave holes between what stays."""

_usual = gc.get_threshold()


def starting() -> None:
    """The proxy will run: what is to be made now is large, and nearly all of it stays."""
    gc.set_threshold(_START_THRESHOLD)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # musl has none
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def imported() -> None:
    """Everything is imported: what is here stays."""
    gc.collect()
    gc.freeze()


def synced() -> None:
    """The first sync is done: what is here now stays, or goes by reference count."""
    gc.freeze()
    gc.set_threshold(*_usual)
