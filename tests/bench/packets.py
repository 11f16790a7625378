# SPDX-License-Identifier: Apache-2.0
"""The packet path: what a packet costs, how many pass, and what a client outside sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cost
import forward
import nodeport
from connect import build_load

from kubeproxy_bpf.log import set_up

MOST_ROUNDS = 7
"""Of what is judged by the least of the rounds."""
MOST_CONNECT_ROUNDS = 20


def main(directory: Path, rounds: int = 40) -> dict[str, Any]:
    """Measure the three parts."""
    set_up()
    load = build_load(directory)
    few = min(rounds, MOST_ROUNDS)
    return {
        "cost": cost.main(directory, load, few),
        "rate": forward.main(directory, load, few),
        "nodeport": nodeport.main(directory, load, min(rounds, MOST_CONNECT_ROUNDS)),
    }
