# SPDX-License-Identifier: Apache-2.0
"""Streams and bodies that break off, stall, repeat themselves or are not what they should be."""

from __future__ import annotations

import pytest

from .conftest import Rig, until
from .scripted_server import encode, service, status
from .steps import answer, body, event, stream


async def watching(rig: Rig) -> None:
    await until(lambda: rig.store.synced and rig.server.watching == 1)


@pytest.mark.parametrize("cut", [True, False])
async def test_a_watch_cut_in_mid_line_resumes_from_the_last_event(
    rig: Rig, cut: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The half event is not used; the next watch brings it whole, and no list is needed. It is a
    failure worth a line even where HTTP saw a proper end."""
    rig.server.put(service("a", 80))
    async with rig.following():
        await watching(rig)
        rig.server.put(service("a", 81), silent=True)
        rig.server.put(service("a", 82), silent=True)
        whole = event("MODIFIED", service("a", 81), 102)
        half = event("MODIFIED", service("a", 82), 103)[:-20]
        rig.server.script.append(stream(whole, half, cut=cut))
        rig.server.end_watches()
        await until(lambda: rig.ports == {"a": 82})
    assert rig.server.resumed() == ["101", "102"]
    assert len(rig.server.lists()) == 1
    assert capsys.readouterr().out.count("watch_failed") == 1


async def test_an_initial_stream_cut_in_the_middle_deletes_nothing(rig: Rig) -> None:
    """What came before the cut is dropped; the old state stands until a whole one has come."""
    for name in "abc":
        rig.server.put(service(name))
    async with rig.following():
        await watching(rig)
        rig.server.forget_history()
        rig.server.version += 1
        rig.server.oldest = rig.server.version
        rig.server.script.extend([None, stream(event("ADDED", service("a", 99), 101), cut=True)])
        rig.server.script.append(answer(500))
        rig.server.end_watches()
        await until(lambda: len(rig.server.requests) >= 4)
        assert rig.ports == {"a": 80, "b": 80, "c": 80}
        await until(lambda: len(rig.server.requests) == 5 and rig.server.watching == 1)
        assert rig.ports == {"a": 80, "b": 80, "c": 80}


@pytest.mark.parametrize(
    "broken",
    [
        encode({"kind": "ServiceList", "metadata": {"resourceVersion": "500"}, "items": []})[:-3],
        b"",
        b"{}",
        b'{"items":[]}',
        encode({"kind": "ServiceList", "metadata": {}, "items": []}),
        encode({"kind": "ServiceList", "metadata": {"resourceVersion": "500"}}),
        encode({"kind": "PodList", "metadata": {"resourceVersion": "500"}, "items": []}),
        encode(status(500, "InternalError")),
        b"<html>welcome</html>",
    ],
)
async def test_a_list_that_is_none_deletes_nothing(rig: Rig, broken: bytes) -> None:
    """A 200 whose body is cut short or another document is no empty list."""
    rig.server.watch_list = "refused"
    rig.server.put(service("a"))
    async with rig.following():
        await watching(rig)
        rig.server.script.extend([answer(410, "Expired"), body(broken)])
        rig.server.end_watches()
        await until(lambda: not rig.server.script)
        await until(lambda: rig.server.watching == 1)
    assert rig.journal.changes == [("a", False, True)]


async def test_a_list_that_shrinks_because_a_page_is_missing_deletes_nothing(rig: Rig) -> None:
    """Pages that came before the missing one take no effect, neither for what they lack."""
    rig.server.watch_list = "refused"
    for i in range(6):
        rig.server.put(service(f"s{i}"))
    async with rig.following(page_size=2):
        await watching(rig)
        rig.server.delete("s5", silent=True)
        expired, failed = answer(410, "Expired"), answer(500)
        cut = stream(
            b'{"kind":"ServiceList","metadata":{"resourceVersion":"9"},"items":[', cut=True
        )
        rig.server.script.extend([expired, None, failed, None, None, cut])
        rig.server.end_watches()
        seen: list[tuple[int, int]] = []

        def shrunk() -> bool:
            seen.append((len(rig.server.script), len(rig.ports)))
            return len(rig.ports) == 5

        await until(shrunk)
    assert {6} == {ports for left, ports in seen if left}
    assert rig.journal.changes[6:] == [("s5", True, False)]


async def test_a_silent_watch_is_given_up_after_its_time(rig: Rig) -> None:
    """A stream that neither speaks nor ends is replaced, after a list: it may be that the server
    is not where we are."""
    rig.server.put(service("a", 80))
    async with rig.following(watch_timeout_s=(0.2, 0.3), stall_slack_s=0.1):
        await watching(rig)
        rig.server.put(service("a", 81), silent=True)
        rig.server.script.append(stream(event("MODIFIED", service("a", 81), 102), stall=True))
        rig.server.end_watches()
        await until(lambda: rig.ports == {"a": 81})
        await until(lambda: len(rig.server.lists()) == 2 and rig.server.watching == 1)
    assert rig.journal.changes == [("a", False, True), ("a", True, True)]


async def test_the_server_is_asked_to_end_watches_at_random_times(rig: Rig) -> None:
    """Five to ten minutes, so that a thousand nodes do not come back together."""
    async with rig.following():
        await watching(rig)
        for count in (2, 3, 4):
            rig.server.end_watches()
            await until(lambda: len(rig.server.requests) == count and rig.server.watching == 1)
    times = [int(q["timeoutSeconds"]) for q in rig.server.requests]
    assert all(300 <= t <= 600 for t in times) and len(set(times)) > 1


async def test_an_unreadable_event_ends_in_a_new_list(rig: Rig) -> None:
    """A line that is never readable is tried from the same position, then given up by listing."""
    rig.server.put(service("a", 80))
    async with rig.following():
        await watching(rig)
        rig.server.put(service("a", 81), silent=True)
        rig.server.script.extend([stream(b'{"type":"MODIFIED","object":{"meta\xff}}\n')] * 3)
        rig.server.end_watches()
        await until(lambda: rig.ports == {"a": 81})
    assert rig.server.resumed() == ["101", "101", "101"]
    assert len(rig.server.lists()) == 2


async def test_objects_of_any_size_pass(rig: Rig) -> None:
    """5 MB in one line, in the initial stream and in a watch, in pieces and as they come."""
    padding = {"metadata": {"name": "big", "namespace": "d", "annotations": {"x": "y" * 5_000_000}}}
    rig.server.put({**service("big", 80), **padding})
    async with rig.following():
        await watching(rig)
        assert rig.ports == {"big": 80}
        rig.server.put({**service("big", 81), **padding})
        rig.server.put(service("small", 82))
        await until(lambda: rig.ports == {"big": 81, "small": 82})
    assert len(rig.server.requests) == 1


async def test_events_cut_at_every_byte_are_put_together(rig: Rig) -> None:
    """How the network cuts the stream makes no difference."""
    async with rig.following():
        await watching(rig)
        lines = event("ADDED", service("a", 81), 200) + event("ADDED", service("b", 82), 201)
        for i in range(len(lines)):
            rig.server.send_raw(lines[i : i + 1])
        await until(lambda: rig.ports == {"a": 81, "b": 82})


async def test_duplicate_events_change_nothing(rig: Rig) -> None:
    """An event that repeats a known version is not told again and costs no list."""
    async with rig.following():
        await watching(rig)
        added = event("ADDED", service("a", 80), 200)
        rig.server.send_raw(added * 3)
        rig.server.send_raw(event("MODIFIED", service("b", 82), 201) + added)
        await until(lambda: "b" in rig.ports)
        rig.server.send_raw(event("DELETED", service("b", 82), 202) * 2)
        await until(lambda: "b" not in rig.ports)
        rig.server.send_raw(event("MODIFIED", service("a", 80), 203))
        rig.server.send_raw(event("ADDED", service("c"), 204))
        await until(lambda: "c" in rig.ports)
    assert [c[0] for c in rig.journal.changes] == ["a", "b", "b", "c"]
    assert len(rig.server.requests) == 1


async def test_an_old_event_does_not_bring_the_past_back(rig: Rig) -> None:
    """A replayed older version is not applied; a new list settles what is true."""
    rig.server.put(service("a", 80))
    rig.server.put(service("a", 81))
    async with rig.following():
        await watching(rig)
        rig.server.send_raw(event("MODIFIED", service("a", 80), 101))
        await until(lambda: len(rig.server.lists()) == 2 and rig.server.watching == 1)
    assert rig.journal.changes == [("a", False, True)]
    assert rig.ports == {"a": 81}


async def test_versions_that_are_no_numbers_are_taken_as_they_come(rig: Rig) -> None:
    """Without an order between versions, the order of events is believed."""
    async with rig.following():
        await watching(rig)
        rig.server.send_raw(event("ADDED", service("a", 80), "z9"))
        rig.server.send_raw(event("MODIFIED", service("a", 81), "b1"))
        await until(lambda: rig.ports == {"a": 81})
    assert len(rig.server.requests) == 1


async def test_a_delete_with_the_version_of_the_object_is_a_delete(rig: Rig) -> None:
    """Some servers repeat the last version of what they delete."""
    async with rig.following():
        await watching(rig)
        rig.server.send_raw(event("ADDED", service("a"), 200) + event("ADDED", service("b"), 201))
        rig.server.send_raw(event("DELETED", service("a"), 200))
        await until(lambda: set(rig.ports) == {"b"})
    assert len(rig.server.requests) == 1


async def test_unknown_event_types_disturb_nothing(rig: Rig) -> None:
    """An event of a type that does not exist yet is passed over."""
    async with rig.following():
        await watching(rig)
        rig.server.send_raw(
            b'{"type":"RENAMED","object":["?"]}\n' + event("ADDED", service("a"), 9999)
        )
        await until(lambda: "a" in rig.ports)
    assert len(rig.server.requests) == 1
