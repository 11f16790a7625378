# SPDX-License-Identifier: Apache-2.0
"""Text of somebody else's, short enough for a log.

A field of an object may hold a megabyte. Called wherever a message repeats what it complains of.
"""

from __future__ import annotations

_CHARS = 240
_TAIL = 60
"""Messages end with what was done about it."""


def excerpt(text: str) -> str:
    """The text, without its middle where it is too long."""
    if len(text) <= _CHARS:
        return text
    left_out = len(text) - _CHARS
    return f"{text[:_CHARS - _TAIL]}...({left_out} characters left out)...{text[-_TAIL:]}"
