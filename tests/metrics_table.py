# SPDX-License-Identifier: Apache-2.0
"""docs/parity/metrics.tsv, row by row: kube-proxy's metrics and what becomes of them here."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).resolve().parents[1] / "docs"


class Row(NamedTuple):
    name: str
    type: str
    stability: str
    endpoint: str
    label_text: str
    bucket_text: str
    here: str
    """shown (from the first sync), on use, or absent."""
    why: str

    @property
    def labels(self) -> frozenset[str]:
        return frozenset(self.label_text.split(",")) if self.label_text else frozenset()

    @property
    def buckets(self) -> tuple[float, ...]:
        return tuple(map(float, self.bucket_text.split()))

    @property
    def help_prefix(self) -> str:
        return f"[{self.stability}] " if self.stability else ""

    @property
    def of_the_library(self) -> bool:
        """Whether the client library declares it."""
        return self.endpoint == "/metrics" and self.name in _LIBRARY


_LIBRARY = {
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
    "process_virtual_memory_bytes",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
}


def _rows() -> list[Row]:
    lines = (DOCS / "parity" / "metrics.tsv").read_text().splitlines()
    header, *rows = [line.split("\t") for line in lines if not line.startswith("#")]
    assert header[:3] == ["name", "type", "stability"]
    return [Row(*row) for row in rows]


ROWS = _rows()
SHOWN = [row for row in ROWS if row.here != "absent"]
