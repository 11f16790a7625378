# SPDX-License-Identifier: Apache-2.0
"""A rollback and an upgrade under load: other objects over the maps that are there.

Which clients see what through an exchange of layouts is the matter of
``tests/e2e/packets/test_older_layout.py``; here it is that nobody is lost at full load.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kubeproxy_bpf.instance import object_path
from tests.e2e.packets import older
from tests.fault.load.offered import under_load
from tests.fault.load.stage import Stage

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]

LAYOUTS = {
    "same-layout": {},
    "other-layout": {
        "flow": "__u32 ifindex;",
        "affinity": "__u32 record;",
        "backend": "__be16 port;",
        "record": "__u32 members;",
        "origin": "__be16 port;",
        "vip": "__u32 flags;",
    },
}
IN_BETWEEN = {"same-layout": 0, "other-layout": 8}
"""Of thousands of new connections, how many may fall between the two copies of the flow table with
their handshake."""


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def objects(layout: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of the older version; of the same layout they are this one's."""
    if not LAYOUTS[layout]:
        return object_path("kube_proxy.bpf.o").parent
    return older.build(tmp_path_factory.mktemp("older"), LAYOUTS[layout])


@under_load
def test_rollback_and_upgrade(stage: Stage, objects: Path, layout: str) -> None:
    """To the older version and back to this one: held connections live, new ones come about."""
    with stage.load() as load:
        load.expect(timed_out=IN_BETWEEN[layout], reset=IN_BETWEEN[layout])
        for command in (older.command(objects), ""):
            stage.kill_proxy()
            with load.recovering():
                stage.start_and_await(command=command)
            stage.until_served()
