# SPDX-License-Identifier: Apache-2.0
"""structlog set-up: events are past-tense facts in snake_case, fields are words of the glossary.

Text or JSON on standard error; ``-v=4`` and above adds debug events, ``-v=8`` those of libbpf. A
line that cannot be written, since the disk is full or nobody reads any more, is lost and counted:
the proxy goes on without.
``set_up`` is called once by the command lines, ``set_verbosity`` whenever an operator asks for more
or less while the process runs; libraries only ask structlog for a logger.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

import msgspec
import structlog

DEBUG_VERBOSITY = 4
_LIBBPF_VERBOSITY = 8
_STANDARD_ERROR = 2

_ALL = structlog.make_filtering_bound_logger(logging.NOTSET)
_DEBUG = structlog.make_filtering_bound_logger(logging.DEBUG)
_INFO = structlog.make_filtering_bound_logger(logging.INFO)
_SWITCHED = ("debug", "adebug", "log", "alog", "is_enabled_for", "get_effective_level")


# Loggers are made at first use and kept for good, so what changes is their class: a debug event
# that nobody wants costs one call of an empty function.
_Logger: Any = type("Logger", (_DEBUG,), {})


class _Output:
    """Standard error without a buffer, in which lines that were lost would come back as halves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lost = 0

    def logger(self, *_: object) -> _Output:
        """What structlog calls a logger: it has a method for each level."""
        return self

    def msg(self, line: str) -> None:
        """Write a line, or lose it."""
        with self._lock:
            # The line feed in front ends what may have been written of the first one that was lost.
            if self._lost and not _written(f"\n{self._lost} lines of this log were lost here\n"):
                self._lost += 1
            elif _written(f"{line}\n"):
                self._lost = 0
            else:
                self._lost += 1

    log = debug = info = warn = warning = fatal = failure = err = error = critical = exception = msg


def _written(text: str) -> bool:
    data = text.encode(errors="backslashreplace")
    try:
        return os.write(_STANDARD_ERROR, data) == len(data)
    except OSError:  # no room, no reader, or it is closed
        return False


def set_up(verbosity: int = 0, logging_format: str = "text") -> None:
    """Configure structlog for the process."""
    set_verbosity(verbosity)
    renderer: Any = structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0)
    if logging_format == "json":
        renderer = structlog.processors.JSONRenderer(serializer=_to_json)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=_Logger,
        logger_factory=_Output().logger,
        cache_logger_on_first_use=True,
    )


def set_verbosity(verbosity: int) -> None:
    """From now on log what ``-v`` with this number would."""
    source = _INFO
    if verbosity >= DEBUG_VERBOSITY:
        source = _ALL if verbosity >= _LIBBPF_VERBOSITY else _DEBUG
    for name in _SWITCHED:
        setattr(_Logger, name, getattr(source, name))


def _to_json(event: Any, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()
