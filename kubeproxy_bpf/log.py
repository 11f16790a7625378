# SPDX-License-Identifier: Apache-2.0
"""structlog set-up: events are past-tense facts in snake_case, fields are words of the glossary.

Text or JSON on standard error; ``-v=4`` and above adds debug events. ``set_up`` is called once by
the command lines, ``set_verbosity`` whenever an operator asks for more or less while the process
runs; libraries only ask structlog for a logger.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import msgspec
import structlog

DEBUG_VERBOSITY = 4

_DEBUG = structlog.make_filtering_bound_logger(logging.DEBUG)
_INFO = structlog.make_filtering_bound_logger(logging.INFO)
_SWITCHED = ("debug", "adebug", "log", "alog", "is_enabled_for", "get_effective_level")


# Loggers are made at first use and kept for good, so what changes is their class: a debug event
# that nobody wants costs one call of an empty function.
_Logger: Any = type("Logger", (_DEBUG,), {})


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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def set_verbosity(verbosity: int) -> None:
    """From now on log what ``-v`` with this number would."""
    source = _DEBUG if verbosity >= DEBUG_VERBOSITY else _INFO
    for name in _SWITCHED:
        setattr(_Logger, name, getattr(source, name))


def _to_json(event: Any, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()
