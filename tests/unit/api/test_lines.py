# SPDX-License-Identifier: Apache-2.0
"""Chunks of a stream become lines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_bpf.api.lines import LineSplitter


@given(st.lists(st.text("ab\n", max_size=8).map(str.encode), max_size=12))
def test_lines_do_not_depend_on_how_the_stream_is_cut(chunks: list[bytes]) -> None:
    """Any cutting gives the lines of the whole, and knows whether the last one ended."""
    splitter = LineSplitter()
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    *whole, rest = b"".join(chunks).split(b"\n")
    assert lines == whole
    assert splitter.unfinished == bool(rest)
