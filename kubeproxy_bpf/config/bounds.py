# SPDX-License-Identifier: Apache-2.0
"""What a text may ask of a YAML reader: how long it is, how deep, and how much its aliases make.

A few lines of aliases can stand for a billion values, and brackets can exhaust the stack of the
reader in C, which ends the process. Both show in the events of the parser, before anything is
built. Called by ``text`` and by ``api.credentials``.
"""

from __future__ import annotations

from pathlib import Path

import yaml

LARGEST_BYTES = 4 << 20
"""A ConfigMap holds one megabyte at most."""
DEEPEST = 100
"""Configurations and kubeconfigs are nested less than ten levels deep."""
MOST_VALUES = 200_000
"""With all aliases written out."""


def read_bounded(path: str) -> str:
    """The text of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, or no UTF-8.
    """
    with Path(path).open("rb") as file:
        content = file.read(LARGEST_BYTES + 1)
    if len(content) > LARGEST_BYTES:
        raise ValueError(f"is larger than {LARGEST_BYTES} bytes")
    return content.decode("utf-8-sig")


def check_yaml(text: str) -> None:
    """See that the first document of a text can be built.

    Raises:
        ValueError: it is nested too deeply, or its aliases stand for too much.
        yaml.YAMLError: it is no YAML.
    """
    measure = _Measure()
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.DocumentEndEvent):
            return
        measure.take(event)


class _Measure:
    """Counts values while a document goes by."""

    def __init__(self) -> None:
        self._open: list[tuple[str | None, int]] = []
        """Anchors of the collections around, and how many values came before each."""
        self._sizes: dict[str, int] = {}
        self._values = 0

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.AliasEvent):
            self._count(self._size(event))
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open.append((event.anchor, self._values))
            self._count(1)
            if len(self._open) > DEEPEST:
                raise ValueError(f"{_line(event)}: is nested more than {DEEPEST} levels deep")
            if event.anchor:
                self._sizes.pop(event.anchor, None)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = self._open.pop()
            self._name(anchor, self._values - before)
        elif isinstance(event, yaml.ScalarEvent):
            self._count(1)
            self._name(event.anchor, 1)

    def _count(self, values: int) -> None:
        self._values += values
        if self._values > MOST_VALUES:
            raise ValueError(f"holds more than {MOST_VALUES} values, aliases written out")

    def _name(self, anchor: str | None, size: int) -> None:
        if anchor:
            self._sizes[anchor] = size

    def _size(self, event: yaml.AliasEvent) -> int:
        if event.anchor not in self._sizes:
            raise ValueError(f"{_line(event)}: an alias has no anchor before it")
        return self._sizes[event.anchor]


def _line(event: yaml.Event) -> str:
    assert event.start_mark is not None
    return f"line {event.start_mark.line + 1}"
