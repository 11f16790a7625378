# SPDX-License-Identifier: Apache-2.0
"""Lines of a stream, of any length.

A reader with a buffer limit fails on the one object that is larger than the limit; this one holds
the pieces of the current line in a list and joins them once. Called by the reflector.
"""

from __future__ import annotations


class LineSplitter:
    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that this chunk completes, without their line ends."""
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if lines and self._pieces:
            self._pieces.append(lines[0])
            lines[0] = b"".join(self._pieces)
            self._pieces.clear()
        if rest:
            self._pieces.append(rest)
        return lines

    @property
    def unfinished(self) -> bool:
        """A line has begun that has not ended: the stream was cut if it ends here."""
        return bool(self._pieces)
