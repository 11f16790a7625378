# SPDX-License-Identifier: Apache-2.0
"""Text of somebody else's, short enough for a log.

A field of an object or of a file may hold a megabyte. Called wherever a message repeats what it
complains of.
"""

from __future__ import annotations

_TAIL = 60
"""Messages end with what was done about it."""


def excerpt(text: str, most: int = 240) -> str:
    """The text, without its middle where it is longer than ``most`` characters."""
    if len(text) <= most:
        return text
    left_out = len(text) - most
    return f"{text[:most - _TAIL]}...({left_out} characters left out)...{text[-_TAIL:]}"
