# SPDX-License-Identifier: Apache-2.0
"""libbpf's own words arrive in structlog."""

from __future__ import annotations

import logging
from ctypes import addressof, create_string_buffer
from typing import Any

import pytest
import structlog

from kubeproxy_bpf.libbpf import BpfObject, LibbpfError, log
from kubeproxy_bpf.libbpf.enums import LogLevel

NO_ARGUMENTS = create_string_buffer(64)  # a va_list that nothing is taken from


def open_garbage() -> None:
    """Make libbpf complain."""
    with pytest.raises(LibbpfError):
        BpfObject.open(b"garbage", name="garbage")


def test_warnings_of_libbpf_are_logged_with_their_arguments() -> None:
    """printf arguments are expanded, level and library are fields."""
    with structlog.testing.capture_logs() as entries:
        open_garbage()

    warnings = [entry for entry in entries if entry["log_level"] == "warning"]
    assert any("garbage" in entry["message"] for entry in warnings)
    assert {"libbpf"} == {entry["library"] for entry in entries}
    assert not any("%" in entry["message"] for entry in entries)


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (LogLevel.WARN, "warning"),
        (LogLevel.INFO, "info"),
        (LogLevel.DEBUG, "debug"),
        (9, "warning"),
    ],
)
def test_levels_keep_their_meaning(level: int, name: str) -> None:
    """Unknown levels of a newer libbpf count as warnings."""
    with structlog.testing.capture_logs() as entries:
        log.forward(level, b"libbpf: plain words\n", addressof(NO_ARGUMENTS))

    assert [(name, "plain words")] == [(e["log_level"], e["message"]) for e in entries]


def test_filtered_levels_are_not_formatted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A debug message costs nothing when nobody wants it."""
    formatted: list[Any] = []
    monkeypatch.setattr(log, "format_message", lambda *call: formatted.append(call))
    wrapper = structlog.make_filtering_bound_logger(logging.INFO)
    monkeypatch.setattr(log, "_logger", structlog.wrap_logger(None, wrapper_class=wrapper))

    log.forward(LogLevel.DEBUG, b"words", None)

    assert [] == formatted


def test_a_long_message_is_cut() -> None:
    """A message longer than the buffer loses its end, nothing else."""
    assert 4095 == len(log.format_message(b"x" * 10_000, addressof(NO_ARGUMENTS)))
