# SPDX-License-Identifier: Apache-2.0
"""structlog set-up: events are past-tense facts in snake_case, fields are words of the glossary.

Text or JSON on standard error; ``-v=4`` and above adds debug events. Called once by the command
lines; libraries only ask structlog for a logger.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import msgspec
import structlog

DEBUG_VERBOSITY = 4


def set_up(verbosity: int = 0, logging_format: str = "text") -> None:
    """Configure structlog for the process."""
    level = logging.DEBUG if verbosity >= DEBUG_VERBOSITY else logging.INFO
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
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _to_json(event: Any, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()
