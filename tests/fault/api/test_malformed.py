# SPDX-License-Identifier: Apache-2.0
"""Objects with wrong types in them: reported, skipped, and without effect on the others."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kubeproxy_bpf.api.decode import Kind, Page, parse_page
from kubeproxy_bpf.api.objects import EndpointSlice
from kubeproxy_bpf.api.resources import endpoint_slices

from .conftest import Rig, until
from .scripted_server import service
from .steps import event, stream


def reports(capsys: pytest.CaptureFixture[str]) -> list[str]:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    return [line for line in plain.splitlines() if "object_malformed" in line]


@pytest.mark.parametrize("watch_list", ["served", "refused"])
async def test_one_bad_object_in_the_initial_state_is_skipped(
    rig: Rig, watch_list: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A port that is a word: named in one report, the other objects are served."""
    rig.server.watch_list = watch_list
    for name, port in (("a", 80), ("bad", "http"), ("c", 82)):
        rig.server.put(service(name, port))
    async with rig.following():
        await until(lambda: rig.store.synced)
    assert rig.ports == {"a": 80, "c": 82}
    (report,) = reports(capsys)
    assert "name=bad" in report and "namespace=default" in report
    assert "$.spec.ports[0].port" in report and "kind=Service" in report


async def test_the_last_good_version_stays(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    """An object that turns bad keeps serving as it was, through watches and new lists; each bad
    version is reported once."""
    rig.server.put(service("a", 80))
    async with rig.following():
        await until(lambda: rig.store.synced and rig.server.watching == 1)
        rig.server.put(service("a", [80]))
        rig.server.put(service("b", 82))
        await until(lambda: "b" in rig.ports)
        rig.server.send_raw(event("ERROR", {"code": 410, "metadata": {}}))
        await until(lambda: len(rig.server.lists()) == 2 and rig.server.watching == 1)
        assert rig.ports == {"a": 80, "b": 82}
        assert len(reports(capsys)) == 1
        rig.server.put(service("a", {}))
        rig.server.put(service("b", 83))
        await until(lambda: rig.ports == {"a": 80, "b": 83})
        assert len(reports(capsys)) == 1
        rig.server.put(service("a", 81))
        await until(lambda: rig.ports["a"] == 81)
    assert len(rig.server.requests) == 2


async def test_a_bad_object_can_be_deleted(rig: Rig) -> None:
    """DELETED needs the name only."""
    rig.server.put(service("a", 80))
    async with rig.following():
        await until(lambda: rig.store.synced and rig.server.watching == 1)
        rig.server.put(service("a", "http"))
        rig.server.delete("a")
        await until(lambda: not rig.ports)
    assert len(rig.server.requests) == 1


@pytest.mark.parametrize("metadata", [{"name": 7}, {}, {"name": None}, "none", []])
async def test_an_object_without_a_readable_name_deletes_nothing(
    rig: Rig, metadata: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """It might be any of those known, so a list with it in removes none."""
    rig.server.put(service("a", 80))
    async with rig.following():
        await until(lambda: rig.store.synced and rig.server.watching == 1)
        rig.server.delete("a", silent=True)
        end = {"k8s.io/initial-events-end": "true"}
        mark = {"metadata": {"resourceVersion": "300", "annotations": end}}
        nameless = {"metadata": metadata, "spec": {}}

        async def relist(request: Any) -> Any:
            pieces = event("ADDED", nameless) + event("ADDED", service("b"), 200)
            return await stream(pieces, event("BOOKMARK", mark), stall=True)(request)

        rig.server.script.append(relist)
        rig.server.send_raw(event("ERROR", {"code": 410, "metadata": {}}))
        await until(lambda: "b" in rig.ports)
    assert rig.ports == {"a": 80, "b": 80}
    assert len(reports(capsys)) == 1


async def test_an_unusable_endpoint_leaves_the_others(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    """An address that is none costs that endpoint only, and is reported once per version."""
    endpoints = [{"addresses": [a]} for a in ("10.1.0.1", "10.1.0.300", "fd00::1", "10.1.0.041")]
    meta = {"name": "s1", "namespace": "d", "labels": {"kubernetes.io/service-name": "s"}}
    document = {"metadata": meta, "addressType": "IPv4", "endpoints": endpoints}
    rig.server.put(document, "EndpointSlice")
    rig.store.waive(Kind.SERVICE)
    async with rig.following(endpoint_slices()):
        await until(lambda: rig.store.objects(Kind.ENDPOINT_SLICE))
    (known,) = rig.store.objects(Kind.ENDPOINT_SLICE).values()
    assert isinstance(known, EndpointSlice)
    assert [a[12:] for a in known.addresses] == [bytes([10, 1, 0, 1]), bytes([10, 1, 0, 41])]
    (report,) = reports(capsys)
    assert "$.endpoints[1].addresses[0]" in report and "name=s1" in report


async def test_versions_of_any_length_are_compared(rig: Rig) -> None:
    """Python refuses to read 4301 digits as a number; what is older is told from the text."""
    rig.server.put(service("a", 80))
    nines = "9" * 5000
    async with rig.following():
        await until(lambda: rig.store.synced and rig.server.watching == 1)
        rig.server.send_raw(event("MODIFIED", service("a", 81), nines))
        rig.server.send_raw(event("MODIFIED", service("a", 82), "1" + nines))
        rig.server.send_raw(event("ADDED", service("b", 83), "01" + nines))
        await until(lambda: rig.ports == {"a": 82, "b": 83})
        assert len(rig.server.requests) == 1
        rig.server.send_raw(event("MODIFIED", service("a", 84), nines))
        await until(lambda: rig.ports == {"a": 80})
    assert len(rig.server.lists()) > 2, "a state that is older is not believed at once"


NEST = 100_000


async def test_an_event_nested_too_deeply_ends_the_watch_and_nothing_else(rig: Rig) -> None:
    """The decoder gives up; the state stands and the next watch goes on from where we were."""
    rig.server.put(service("a", 80))
    async with rig.following():
        await until(lambda: rig.store.synced and rig.server.watching == 1)
        rig.server.send_raw(b'{"type":"ADDED","object":' + b"[" * NEST + b"]" * NEST + b"}\n")
        await until(lambda: len(rig.server.requests) == 2 and rig.server.watching == 1)
        rig.server.put(service("b", 81))
        await until(lambda: rig.ports == {"a": 80, "b": 81})


@pytest.mark.parametrize("error", [OverflowError, ValueError, ZeroDivisionError])
async def test_what_no_one_thought_of_is_a_failure_like_others(
    rig: Rig, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that breaks the arithmetic behind it is logged and followed by a back-off."""
    rig.server.watch_list = "refused"
    rig.server.put(service("a", 80))
    answers = iter([error("odd"), error("odd")])

    def parse(body: bytes, kind: Kind) -> Page:
        for odd in answers:
            raise odd
        return parse_page(body, kind)

    monkeypatch.setattr("kubeproxy_bpf.api.reflector.parse_page", parse)
    async with rig.following():
        await until(lambda: rig.ports == {"a": 80})
    assert len(rig.clock.slept) >= 2
