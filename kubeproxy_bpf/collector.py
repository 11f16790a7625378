# SPDX-License-Identifier: Apache-2.0
"""When the cyclic garbage collector looks at what, so that no change of an endpoint waits for it.

Imports and the first sync make a million objects that stay: visiting them again and again would
cost the start a fifth of its time, and later each full collection would stop the process for tens
of milliseconds. So it visits little until the first sync, and never again what was there by then;
reference counts free those like any other. ``cli`` calls ``imported``, ``app`` calls ``synced``.
"""

from __future__ import annotations

import gc

_START_THRESHOLD = 200_000
"""New containers that bring a collection before the first sync. Not "never": a proxy that cannot
reach its API server may wait for days, and each failure leaves a few cycles behind."""

_usual = gc.get_threshold()


def imported() -> None:
    """Everything is imported: none of that is garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_START_THRESHOLD)


def synced() -> None:
    """The first sync is done: what is here now stays, or goes by reference count."""
    gc.freeze()
    gc.set_threshold(*_usual)
