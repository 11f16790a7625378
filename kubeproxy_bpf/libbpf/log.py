# SPDX-License-Identifier: Apache-2.0
"""Carries libbpf's own messages into structlog; installed once, when the first object is opened.

libbpf has one print callback for the whole process. The verifier's log does not come this way:
``BpfObject.load`` gives each program a buffer of its own.
"""

from __future__ import annotations

import atexit
import logging
from ctypes import create_string_buffer
from functools import cache

import structlog

from . import _native
from ._structs import PrintFn
from .enums import LogLevel

_LINE_BYTES = 4096
_LEVELS: dict[int, int] = {
    LogLevel.WARN: logging.WARNING,
    LogLevel.INFO: logging.INFO,
    # Hundreds of lines for each object: below what is for operators.
    LogLevel.DEBUG: logging.NOTSET,
}

_logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(library="libbpf")


def format_message(template: bytes, arguments: int | None) -> str:
    """Expand a printf template with a C ``va_list``, which is used up by it."""
    line = create_string_buffer(_LINE_BYTES)
    _native.vsnprintf(line, _LINE_BYTES, template, arguments)
    text = line.value.decode("utf-8", "replace").strip()
    return text.removeprefix("libbpf:").strip()


def forward(level: int, template: bytes, arguments: int | None) -> int:
    """Log one message of libbpf; a level that is filtered out costs no formatting."""
    severity = _LEVELS.get(level, logging.WARNING)
    if _logger.is_enabled_for(severity):
        message = format_message(template, arguments)
        _logger.log(severity or logging.DEBUG, "libbpf_message_received", message=message)
    return 0


_callback = PrintFn(forward)


@cache
def install() -> None:
    """Make libbpf speak through us until the interpreter ends."""
    _native.libbpf_set_print(_callback)
    # Objects may still be closed while the interpreter shuts down: libbpf must not call then.
    atexit.register(_native.libbpf_set_print, PrintFn(0))
