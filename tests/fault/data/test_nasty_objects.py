# SPDX-License-Identifier: Apache-2.0
"""Several hundred bad objects at once, as the whole process takes them, under load."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from typing import Iterator

import pytest

from kubeproxy_bpf.errors import ApiError
from kubeproxy_bpf.model.problems import MOST
from tests.fault.data.nasty import Nasty, nasty
from tests.fault.load.offered import under_load
from tests.fault.load.stage import Manifest, Stage, service

pytestmark = pytest.mark.root

LINGER = 128
LONGEST_LINE = 1500
GROWTH_KB = 12_000
"""Between the first and the last of several rounds, of some 60 MB."""


@pytest.fixture
def crowd(stage: Stage) -> Iterator[list[Nasty]]:
    """The bad objects for this cluster; none of them is left behind."""
    layout = stage.sandbox.layout
    pods = [str(pod.addresses.v4) for pod in layout.pods if pod.serves]
    found = nasty(stage.vip, pods, str(layout.addresses("node1").v4))
    assert len(found) > 200
    yield found
    for each in found:
        stage.delete(each.manifest)


def put_all(stage: Stage, crowd: list[Nasty]) -> list[Nasty]:
    """Those that the API server stored: even without validation it cannot store everything."""
    stored = []
    for each in crowd:
        try:
            stage.put(each.manifest)
        except ApiError as error:
            assert error.status in (400, 422, 500), error
        else:
            stored.append(each)
    return stored


def marker(stage: Stage, name: str) -> Manifest:
    """A Service that answers when everything before it has been taken in."""
    manifest, made = service(name), []
    stage.persist(lambda: made.append(stage.put(manifest)))  # ours may be cut, too
    vip = made[-1]["spec"]["clusterIP"]
    stage.until_answers({"web-1", "web-2", "web-3", "web-4"}, vip)
    return manifest


def complaints(stage: Stage) -> Counter[str]:
    """How often the log names each object."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", stage.log())
    lines = [line for line in text.splitlines() if "object_" in line]
    assert all(len(line) < LONGEST_LINE for line in lines)
    return Counter(name for line in lines for name in re.findall(r"\bn-\d{4}\b", line)[:1])


def resident_kb(stage: Stage) -> int:
    with open(f"/proc/{stage.proxy_pid()}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


def entries(stage: Stage) -> tuple[set[bytes], set[bytes]]:
    """Frontends, and VIPs but those that stay a while for flows that are none."""
    maps = stage.maps()
    vips = {key for key, value in maps["kpb_vips"].items() if value[0] != LINGER}
    return set(maps["kpb_frontends"]), vips


def is_special(key: bytes) -> bool:
    address = ipaddress.IPv6Address(key[:16])
    address_ = address.ipv4_mapped or address
    return key[:16] not in (bytes(16), bytes(10) + b"\xff\xff" + bytes(4)) and (
        address_.is_loopback or address_.is_multicast or address_.is_link_local
    )


@under_load
def test_several_hundred_bad_objects_harm_nobody(
    stage: Stage, crowd: list[Nasty], long: bool
) -> None:
    """Others are served all the time; each bad object is named, and soon no more; nothing of what
    is refused stands in a map, and nothing of all that stays."""
    pid, before, earlier = stage.proxy_pid(), entries(stage), complaints(stage)
    sizes: list[int] = []
    turns = 20 if long else 2
    with stage.load():
        for turn in range(turns):
            stored = put_all(stage, crowd)
            manifest = marker(stage, f"marker-{turn}")
            assert not any(map(is_special, entries(stage)[0]))
            told = complaints(stage) - earlier
            for each in crowd:
                stage.delete(each.manifest)
            stage.delete(manifest)
            stage.until(lambda: entries(stage) == before)
            sizes.append(resident_kb(stage))
    assert pid == stage.proxy_pid()
    unnamed = [each.name for each in stored if each.bad and not told[each.name]]
    assert not unnamed
    assert not [each.name for each in stored if not each.bad and told[each.name]]
    # One decoder's line and so many of the model's, each time that it comes.
    assert max(told.values()) <= turns * (MOST + 2)
    assert "Traceback" not in stage.log()
    assert sizes[-1] - sizes[0] < GROWTH_KB, sizes


@under_load
def test_a_new_list_and_a_restart_among_bad_objects(stage: Stage, crowd: list[Nasty]) -> None:
    """What was named when it came is not named again when everything is listed anew; a process
    that starts among bad objects serves the good ones, and what was programmed stays."""
    put_all(stage, crowd)
    markers = [marker(stage, "marker")]
    told = complaints(stage)
    stage.fault(kind="compact")
    stage.fault(kind="disconnect")
    markers.append(marker(stage, "marker-2"))
    assert told and told == complaints(stage)
    held, starts = entries(stage), stage.log().count("stale_entries_kept")
    with stage.load():
        stage.kill_proxy()
        stage.start_and_await()
        assert entries(stage) == held
        markers.append(marker(stage, "marker-3"))
    assert complaints(stage).keys() == told.keys()
    assert stage.log().count("stale_entries_kept") == starts + 1
    for manifest in markers:
        stage.delete(manifest)
