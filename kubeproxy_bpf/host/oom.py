# SPDX-License-Identifier: Apache-2.0
"""How willing the kernel is to end this process when memory runs out. Called by ``app``."""

from __future__ import annotations

from pathlib import Path

import structlog

OOM_SCORE_ADJ = Path("/proc/self/oom_score_adj")

_log = structlog.get_logger(__name__)


def set_oom_score(score: int | None, path: Path = OOM_SCORE_ADJ) -> None:
    """Write the score, unless it is None; a refusal is only logged, as the proxy runs without."""
    if score is None:
        return
    try:
        path.write_text(f"{score}\n")
    except OSError as error:
        _log.warning("oom_score_not_set", score=score, error=str(error))
