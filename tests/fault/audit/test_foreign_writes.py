# SPDX-License-Identifier: Apache-2.0
"""What somebody else writes to the maps is found, named, counted and repaired within a period."""

from __future__ import annotations

from typing import Any, Callable

import pytest

from kubeproxy_bpf.plan.records import Frontend, FrontendKey, Record, Service, Slot, Vip, VipFlags
from tests.fault.audit.conftest import connecting, logged
from tests.fault.audit.foreigner import Foreigner
from tests.fault.load.stage import ALL, Stage
from tests.plan_objects import ip

pytestmark = pytest.mark.root

Damage = Callable[[Foreigner, FrontendKey], None]
NOBODYS = FrontendKey(ip("10.96.99.99"), 80, 6)


def index_of(maps: Foreigner, key: FrontendKey) -> int:
    found: Frontend = maps.read("frontends", key)
    return found.service


def record_of(maps: Foreigner, key: FrontendKey) -> tuple[int, Record]:
    word: Service = maps.read("services", index_of(maps, key))
    return word.record, maps.read("records", word.record)


def lose_frontend(maps: Foreigner, key: FrontendKey) -> None:
    maps.remove("frontends", key)


def turn_frontend(maps: Foreigner, key: FrontendKey) -> None:
    maps.write("frontends", key, maps.read("frontends", key)._replace(service=4000))


def add_frontend(maps: Foreigner, key: FrontendKey) -> None:
    maps.write("frontends", NOBODYS, Frontend(index_of(maps, key), 1, 0))


def lose_vip(maps: Foreigner, key: FrontendKey) -> None:
    maps.remove("vips", key.address)


def turn_vip(maps: Foreigner, key: FrontendKey) -> None:
    maps.write("vips", key.address, Vip(int(VipFlags.ON_DEVICE)))


def add_vip(maps: Foreigner, key: FrontendKey) -> None:
    maps.write("vips", NOBODYS.address, Vip(int(VipFlags.CLUSTER_IP)))


def lose_word(maps: Foreigner, key: FrontendKey) -> None:
    maps.write("services", index_of(maps, key), Service(0, 0))


def turn_word(maps: Foreigner, key: FrontendKey) -> None:
    maps.write("services", index_of(maps, key), Service(1000, 1))


def turn_record(maps: Foreigner, key: FrontendKey) -> None:
    number, record = record_of(maps, key)
    maps.write("records", number, record._replace(members=0, cluster_count=0))


def turn_slot(maps: Foreigner, key: FrontendKey) -> None:
    _, record = record_of(maps, key)
    maps.write("slots", record.slots, Slot(60000))


def turn_backend(maps: Foreigner, key: FrontendKey) -> None:
    # Of UDP: those of TCP are the other Service's too, which is to go on.
    _, record = record_of(maps, key._replace(protocol=17))
    number = maps.read("slots", record.slots).backend
    maps.write("backends", number, maps.read("backends", number)._replace(address=ip("10.99.0.1")))


def turn_ports(maps: Foreigner, key: FrontendKey) -> None:
    word = maps.word("node_ports", 100)
    maps.map("node_ports").update((100).to_bytes(4, "little"), (word ^ 1).to_bytes(8, "little"))


WRITES: list[tuple[Damage, str, str, bool]] = [
    (lose_frontend, "frontends", "missing", True),
    (turn_frontend, "frontends", "differs", True),
    (add_frontend, "frontends", "extra", True),
    (lose_vip, "vips", "missing", True),
    (turn_vip, "vips", "differs", True),
    (add_vip, "vips", "extra", False),
    (lose_word, "services", "missing", True),
    (turn_word, "services", "differs", True),
    (turn_record, "records", "differs", True),
    (turn_slot, "slots", "differs", True),
    (turn_backend, "backends", "differs", True),
    (turn_ports, "node_ports", "extra", False),
]


@pytest.mark.parametrize(
    ("write", "name", "kind", "owned"), WRITES, ids=[f"{n}-{k}" for _, n, k, _ in WRITES]
)
def test_a_foreign_write_is_found_and_repaired(
    stage: Stage, foreigner: Foreigner, write: Damage, name: str, kind: str, owned: bool
) -> None:
    """The log names map, kind and Service port, and the Service answers from all its backends."""
    other = stage.put(_another())["spec"]["clusterIP"]
    stage.until_answers(ALL, other)
    since = len(stage.log())
    with connecting(stage, other) as undisturbed:
        write(foreigner, FrontendKey(ip(stage.vip), 80, 6))
        stage.until(lambda: logged(stage, since, "maps_repaired", differences="1", remaining="0"))
        stage.until_answers(ALL, seconds=10)

    (line,) = logged(stage, since, "map_differs", map=name, kind=kind)
    assert ("default/web:tcp/TCP/IPv4" in line) == owned or "default/web" in line
    assert len(logged(stage, since, "map_differs")) == 1
    assert undisturbed.failures == []
    assert set(undisturbed.answers) <= ALL


def _another() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "other", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
