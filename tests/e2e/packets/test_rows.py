# SPDX-License-Identifier: Apache-2.0
"""The table of packet flows over real sockets, in every topology and through strict nodes."""

from __future__ import annotations

import pytest

from tests.e2e.packets.judge import judge, judge_all
from tests.e2e.packets.table import ROWS, SILENT, Row
from tests.e2e.packets.world import World

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.mark.parametrize("row", [row for row in ROWS if row not in SILENT], ids=str)
def test_packets_end_where_the_table_says(row: Row, world: World) -> None:
    """Exactly these answer, and see this peer, or exactly this happens, in both families."""
    judge(row, world)


def test_where_the_table_says_so_there_is_silence(world: World) -> None:
    """To the packets of these rows nothing comes back at all, in both protocols and families."""
    judge_all(SILENT, world)
