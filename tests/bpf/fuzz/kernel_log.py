# SPDX-License-Identifier: Apache-2.0
"""What the kernel complains of while a test runs; nothing where its log may not be read."""

from __future__ import annotations

import os
import re
from types import TracebackType
from typing import Self

# A trace alone is none: the log is the machine's, and others may run out of memory.
_COMPLAINT = re.compile(r"WARNING:|BUG:|Oops|KASAN|refcount_t|general protection|skb_(over|under)")
_RECORD = 8192


class KernelLog:
    """Reads what is written between its begin and its end."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self._fd = -1

    def __enter__(self) -> Self:
        try:
            self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._fd, 0, os.SEEK_END)
        except OSError:
            self._fd = -1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._fd < 0:
            return
        try:
            while record := os.read(self._fd, _RECORD):
                line = record.decode(errors="replace")
                if _COMPLAINT.search(line):
                    self.complaints.append(line)
        except (BlockingIOError, BrokenPipeError):
            pass
        finally:
            os.close(self._fd)
