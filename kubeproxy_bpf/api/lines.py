# SPDX-License-Identifier: Apache-2.0
"""Lines of a stream, of any length that an object can have.

A reader with a small buffer fails on the one object that is larger. The limit here is far above
what etcd stores (1.5 MB, or a few times that where it was raised): it ends a line that has no end.
Called by the reflector.
"""

from __future__ import annotations

from kubeproxy_bpf.api.decode import Malformed

LONGEST = 32 << 20


class LineSplitter:
    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that this chunk completes, without their line ends."""
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if lines and self._rest:
            self._rest += lines[0]
            lines[0] = bytes(self._rest)
            self._rest.clear()
        self._rest += rest
        if len(self._rest) > LONGEST:
            raise Malformed("watch", f"a line of more than {LONGEST} bytes")
        return lines

    @property
    def unfinished(self) -> bool:
        """A line has begun that has not ended: the stream was cut if it ends here."""
        return bool(self._rest)
