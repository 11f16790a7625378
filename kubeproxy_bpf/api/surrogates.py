# SPDX-License-Identifier: Apache-2.0
"""Text that JSON can carry and Unicode does not know: halves of surrogate pairs, stray bytes.

One such escape in one string of one object would make a whole list unreadable. Kubernetes' own
decoder puts U+FFFD in its place, and so does this; it judges nothing else. Called by ``api.decode``
for what could not be read.
"""

from __future__ import annotations

import re

_REPLACEMENT = b"\\ufffd"

# All escapes, since a backslash may itself be escaped; a whole pair and the others stay.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|.)",
    re.DOTALL,
)


def without_halves(body: bytes) -> bytes:
    """The same document in valid Unicode."""
    try:
        body.decode()
    except UnicodeDecodeError:
        body = body.decode(errors="replace").encode()
    return _ESCAPE.sub(_replaced, body) if b"\\ud" in body.lower() else body


def _replaced(escape: re.Match[bytes]) -> bytes:
    return _REPLACEMENT if escape[1] else escape[0]
