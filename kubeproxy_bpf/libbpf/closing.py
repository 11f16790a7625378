# SPDX-License-Identifier: Apache-2.0
"""``with`` for whatever has a ``close``: it is closed at the end of the block, however that comes.

Base of descriptors and objects; what closing means is theirs to say.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Closing:
    """Context manager that closes itself."""

    __slots__ = ()

    def close(self) -> None:
        """Give back what is held; a second call does nothing."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
