# SPDX-License-Identifier: Apache-2.0
"""What somebody else writes to the maps is found, named, counted and repaired within a period."""

from __future__ import annotations

import re
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
    # Of UDP: those of TCP are all other Services' too, which are to go on.
    (key,) = (each for each in maps.frontends() if (each.port, each.protocol) == (80, 17))
    _, record = record_of(maps, key)
    number = maps.read("slots", record.slots).backend
    maps.write("backends", number, maps.read("backends", number)._replace(address=ip("10.99.0.1")))


def turn_ports(maps: Foreigner, key: FrontendKey) -> None:
    word = maps.word("node_ports", 100)
    maps.map("node_ports").update((100).to_bytes(4, "little"), (word ^ 1).to_bytes(8, "little"))


WRITES: list[tuple[Damage, str, str]] = [
    (lose_frontend, "frontends", "missing"),
    (turn_frontend, "frontends", "differs"),
    (add_frontend, "frontends", "extra"),
    (lose_vip, "vips", "missing"),
    (turn_vip, "vips", "differs"),
    (add_vip, "vips", "extra"),
    (lose_word, "services", "missing"),
    (turn_word, "services", "differs"),
    (turn_record, "records", "differs"),
    (turn_slot, "slots", "differs"),
    (turn_backend, "backends", "differs"),
    (turn_ports, "node_ports", "extra"),
]
OWNERLESS = ("vips", "extra"), ("node_ports", "extra")


def test_foreign_writes_are_found_named_counted_and_repaired(
    stage: Stage, foreigner: Foreigner
) -> None:
    """Each at a Service of its own, all at once: all answer again, and another never noticed."""
    manifests = [named(f"written-{number}") for number in range(len(WRITES))]
    vips = [stage.put(each)["spec"]["clusterIP"] for each in manifests]
    undisturbed = stage.put(named("undisturbed"))["spec"]["clusterIP"]
    try:
        for vip in (*vips, undisturbed):
            stage.until_answers(ALL, vip)
        since = len(stage.log())
        with connecting(stage, undisturbed) as told:
            for (write, _, _), vip in zip(WRITES, vips, strict=True):
                write(foreigner, FrontendKey(ip(vip), 80, 6))
            stage.until(lambda: len(logged(stage, since, "map_differs")) == len(WRITES))
            for vip in vips:
                stage.until_answers(ALL, vip, seconds=10)
            stage.until(lambda: foreigner.read("vips", NOBODYS.address) is None)
        for number, (_, name, kind) in enumerate(WRITES):
            check_line(stage, since, number, name, kind)
        assert told.failures == [] and set(told.answers) <= ALL
        assert not logged(stage, since, "map_not_repaired")
        assert not re.search("remaining=[1-9]", stage.log()[since:])
    finally:
        for manifest in (*manifests, named("undisturbed")):
            stage.delete(manifest)


def check_line(stage: Stage, since: int, number: int, name: str, kind: str) -> None:
    """One line names map, kind and Service port."""
    lines = logged(stage, since, "map_differs", map=name, kind=kind)
    if (name, kind) not in OWNERLESS:
        owners = {"backends": "default/web:udp/UDP/IPv4"}
        owner = owners.get(name, f"default/written-{number}:-/TCP/IPv4")
        lines = [line for line in lines if f"service_port={owner}" in line]
    assert len(lines) == 1, (name, kind, lines)


def named(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
