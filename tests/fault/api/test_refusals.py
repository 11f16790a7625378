# SPDX-License-Identifier: Apache-2.0
"""Servers that say no, are away, or come back as another."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from kubeproxy_bpf.api.decode import Kind
from kubeproxy_bpf.api.resources import pods_of, service_cidrs
from kubeproxy_bpf.api.store import State

from .conftest import FastClock, Rig, until
from .scripted_server import encode, service, status
from .steps import answer, body, event, gone, refusal, stream

MINUTE_REQUESTS = 14
"""What back-off allows in a minute: 0.4 + 0.8 + 1.6 + ... s at the least, then every 15 s."""


async def follow_a_minute(rig: Rig, clock: FastClock) -> int:
    """Requests in the first minute, as the clock counts it, of a server that does not change."""
    async with rig.following():
        await until(lambda: sum(clock.slept) >= 60)
        return len(rig.server.requests)


async def test_an_outage_loses_nothing(rig: Rig) -> None:
    """While the server is away the state stays; afterwards what changed meanwhile arrives."""
    rig.server.put(service("a", 80))
    rig.server.put(service("b", 80))
    async with rig.following():
        await until(lambda: rig.store.synced and rig.server.watching == 1)
        await rig.server.stop()
        await until(lambda: len(rig.clock.slept) >= 4)
        assert rig.ports == {"a": 80, "b": 80}
        rig.server.put(service("a", 81))
        rig.server.delete("b")
        await rig.server.start()
        await until(lambda: rig.ports == {"a": 81})
    assert len(rig.server.lists()) == 1


async def test_an_error_is_an_answer_and_a_closed_port_is_none(rig: Rig) -> None:
    """Who decides whether to wait for an API server is told whether there is one."""
    await rig.server.stop()
    async with rig.following():
        await until(lambda: len(rig.clock.slept) >= 2)
        assert not rig.client.answered
        rig.server.always = answer(503)
        await rig.server.start()
        await until(lambda: rig.client.answered)


@pytest.mark.parametrize("watch_list", ["served", "refused"])
async def test_smaller_versions_after_a_restart_do_not_stop_us(rig: Rig, watch_list: str) -> None:
    """A server restored from a backup counts from below: one new list, then its events count."""
    rig.server.watch_list = watch_list
    rig.server.put(service("a", 80))
    rig.server.put(service("b", 80))
    async with rig.following():
        await until(lambda: rig.store.synced and rig.server.watching == 1)
        await rig.server.stop()
        rig.server.delete("b", silent=True)
        rig.server.restore(5)
        await rig.server.start()
        await until(lambda: rig.server.watching == 1)
        rig.server.put(service("c", 82))
        await until(lambda: rig.ports == {"a": 80, "c": 82})
        rig.server.put(service("a", 83))
        await until(lambda: rig.ports == {"a": 83, "c": 82})


async def test_a_version_that_the_server_has_not_reached_means_a_new_list(rig: Rig) -> None:
    """ "Too large resource version" is how Kubernetes answers after a restore."""
    rig.server.put(service("a"))
    async with rig.following():
        await until(lambda: rig.server.watching == 1 and rig.store.synced)
        rig.server.script.append(stream(gone(version_too_large=True)))
        rig.server.end_watches()
        await until(lambda: len(rig.server.lists()) == 2)


async def test_410_as_status_means_a_new_list_and_keeps_the_old_state(rig: Rig) -> None:
    """After 410 the old state stands until the new list is complete; the missing go then."""
    rig.server.put(service("a"))
    rig.server.put(service("b"))
    async with rig.following():
        await until(lambda: rig.store.synced and rig.server.watching == 1)
        rig.server.delete("a", silent=True)
        rig.server.forget_history()
        rig.server.bookmark_at_once = False
        rig.server.end_watches()
        await until(lambda: len(rig.server.lists()) == 2 and rig.server.watching == 1)
        assert set(rig.ports) == {"a", "b"}
        rig.server.bookmark_at_once = True
        await until(lambda: set(rig.ports) == {"b"})
    assert rig.journal.changes[2:] == [("a", True, False)]


async def test_410_as_event_means_a_new_list(rig: Rig) -> None:
    """An ERROR event with code 410 inside a watch counts like the status."""
    rig.server.put(service("a"))
    async with rig.following():
        await until(lambda: rig.store.synced and rig.server.watching == 1)
        rig.server.put(service("b"), silent=True)
        rig.server.send_raw(gone())
        await until(lambda: set(rig.ports) == {"a", "b"})
    assert len(rig.server.lists()) == 2


async def test_a_server_that_always_says_410_is_not_stormed(rig: Rig, clock: FastClock) -> None:
    """List, 410, list, 410 ... goes on at the pace of the back-off."""

    rig.server.watch_list = "refused"
    rig.server.put(service("a"))
    rig.server.oldest = 10_000
    # Each round is a list and a watch; the refused WatchList comes once.
    assert await follow_a_minute(rig, clock) <= 2 * MINUTE_REQUESTS + 1
    assert set(rig.ports) == {"a"}


@pytest.mark.parametrize(
    "step",
    [answer(500), answer(502), answer(401), answer(403), stream(), body(b"<html>", "text/html")]
    + [stream(b'{"type":"ADD'), stream(b"\n\n"), stream(cut=True), body(b"{}"), answer(404)],
)
async def test_no_answer_makes_a_hot_loop(rig: Rig, clock: FastClock, step: object) -> None:
    """Whatever a server answers, the requests of a minute are few."""
    rig.server.always = step  # type: ignore[assignment]
    # A refused WatchList costs a second request, 401 a repetition of each.
    assert await follow_a_minute(rig, clock) <= 2 * MINUTE_REQUESTS + 2
    assert not rig.store.synced


async def test_watches_that_end_at_once_are_no_hot_loop(rig: Rig, clock: FastClock) -> None:
    """200 and an empty body, again and again, after a good list; the state stays."""
    rig.server.watch_list = "refused"
    rig.server.put(service("a"))
    rig.server.script.extend([None, None])
    rig.server.always = stream()
    assert await follow_a_minute(rig, clock) <= MINUTE_REQUESTS + 2
    assert set(rig.ports) == {"a"}


async def test_watches_that_bring_one_event_and_end_are_no_hot_loop(
    rig: Rig, clock: FastClock
) -> None:
    """Progress does not buy a watch that ends at once an immediate successor."""
    rig.server.watch_list = "refused"
    rig.server.put(service("a"))
    rig.server.script.extend([None, None])
    rig.server.always = stream(event("MODIFIED", service("a", 81), 500))
    assert await follow_a_minute(rig, clock) <= MINUTE_REQUESTS + 2
    assert rig.ports == {"a": 81}


async def test_cuts_that_lie_apart_do_not_add_up(rig: Rig, clock: FastClock) -> None:
    """A watch that brought news before it ended is a success: the next delay is the first again."""
    rig.server.watch_list = "refused"
    rig.server.put(service("a"))
    rig.server.script.extend([None, None])
    news = (event("MODIFIED", service("a", 81 + n), 500 + n) for n in range(30))
    rig.server.script.extend(stream(one) for one in news)
    async with rig.following():
        await until(lambda: rig.ports == {"a": 110})
    # Thirty first delays of 0.4 to 0.8 s, by the clock that only pretends.
    assert sum(clock.slept) < 26


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize("value", ["17", formatdate(1_800_000_017.0, usegmt=True)])
async def test_retry_after_is_honoured(rig: Rig, code: int, value: str) -> None:
    """The next request comes no sooner than the server asked, given in seconds or as a date."""
    rig.server.script.append(answer(code, "TooManyRequests", {"Retry-After": value}))
    async with rig.following():
        await until(lambda: rig.store.synced)
    assert rig.clock.slept[0] == pytest.approx(17.0, abs=0.01)


async def test_an_absurd_retry_after_is_limited(rig: Rig) -> None:
    """No header makes us deaf for a day."""
    rig.server.script.append(answer(429, "TooManyRequests", {"Retry-After": "86400"}))
    async with rig.following():
        await until(lambda: rig.store.synced)
    assert rig.clock.slept[0] == 120.0


async def test_the_delay_grows_and_success_resets_it(rig: Rig, clock: FastClock) -> None:
    """Delays double up to 30 s; a watch that lived is followed by a short one again."""
    rig.server.script.extend([answer(500)] * 8)
    async with rig.following():
        await until(lambda: rig.store.synced and rig.server.watching == 1)
        bases = [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
        assert all(b / 2 <= s <= b for s, b in zip(clock.slept, bases, strict=True))
        clock.slept.append(60.0)
        rig.server.script.append(answer(500))
        rig.server.end_watches()
        await until(lambda: len(clock.slept) == 10)
    assert clock.slept[9] <= 0.8


async def test_410_between_pages_starts_the_list_again(rig: Rig) -> None:
    """A continue token that expired costs a new list; nothing is taken from the half one."""
    rig.server.watch_list = "refused"
    for i in range(5):
        rig.server.put(service(f"s{i}"))
    rig.server.script.extend([None, None, answer(410, "Expired")])
    async with rig.following(page_size=2):
        await until(lambda: rig.store.synced)
    asked = [q.get("continue") for q in rig.server.requests[1:6]]
    assert asked == [None, "2", None, "2", "4"]
    assert len(rig.journal.changes) == 5


async def test_a_continue_token_that_never_ends_is_an_error(rig: Rig, clock: FastClock) -> None:
    """A server that repeats its token does not hold us in one list for ever."""
    rig.server.watch_list = "refused"
    meta = {"resourceVersion": "1", "continue": "x"}
    rig.server.script.append(None)
    rig.server.always = body(encode({"kind": "ServiceList", "metadata": meta, "items": []}))
    assert await follow_a_minute(rig, clock) <= 2 * MINUTE_REQUESTS + 1
    assert not rig.store.synced


async def test_a_forbidden_optional_resource_is_unavailable_not_empty(
    rig: Rig, clock: FastClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """kube-proxy's role may not list Pods: said once, tried slowly, and known as such."""
    rig.server.always = answer(403, "Forbidden")
    async with rig.following(pods_of("n1")):
        await until(lambda: sum(clock.slept) >= 600)
    assert len(rig.server.requests) <= 16
    assert clock.slept[:2] == [0.2, 0.6] and min(clock.slept[2:]) >= 48
    assert rig.store.state(Kind.POD) is State.UNAVAILABLE
    told = capsys.readouterr().out
    assert told.count("resource_not_shown") == 1 and "host ports" in told
    assert "watch_failed" not in told


@pytest.mark.parametrize("code", [403, 404])
async def test_a_server_without_service_cidrs_is_asked_seldom(
    rig: Rig, clock: FastClock, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    """Before Kubernetes 1.33 nothing is found there: said once, as a role that lacks them is."""
    rig.server.always = answer(code, "No")
    async with rig.following(service_cidrs()):
        await until(lambda: sum(clock.slept) >= 600)
    assert len(rig.server.requests) <= 16
    assert rig.store.state(Kind.SERVICE_CIDR) is State.UNAVAILABLE
    told = capsys.readouterr().out
    assert told.count("resource_not_shown") == 1
    assert "watch_failed" not in told and "watchlist_refused" not in told


@pytest.mark.parametrize(
    "codes", [(403,), (403, 403), (403, 403, 500, 403, 403), (500, 403, 429, 403, 503, 403)]
)
async def test_a_refusal_that_passes_is_not_taken_for_the_answer(
    rig: Rig, codes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An API server that starts refuses before it has read the roles; only three refusals in a row
    count, since host ports that are programmed go once Pods are known to be unavailable."""
    told: list[None] = []
    monkeypatch.setattr(rig.store.sink(Kind.POD), "unavailable", lambda: told.append(None))
    rig.server.script.extend([answer(code) for code in codes])
    async with rig.following(pods_of("n1")):
        await until(lambda: rig.store.state(Kind.POD) is State.LISTED)
    assert not told


async def test_a_resource_that_is_permitted_later_is_taken(rig: Rig) -> None:
    """Once the role is extended, Pods arrive without a restart."""
    rig.server.script.extend([answer(403, "Forbidden")] * 4)
    async with rig.following(pods_of("n1")):
        await until(lambda: rig.store.state(Kind.POD) is State.LISTED)


async def test_an_error_body_in_pieces_is_read_whole(rig: Rig) -> None:
    """What the server asks for may stand in the last piece: here that we list anew."""
    rig.server.put(service("a"))
    details = {"causes": [{"reason": "ResourceVersionTooLarge"}]}
    text = encode(status(504, "Timeout", details=details))
    async with rig.following():
        await until(lambda: rig.store.synced and rig.server.watching == 1)
        rig.server.script.append(refusal(504, text[:20], text[20:], pause_s=0.05))
        rig.server.end_watches()
        await until(lambda: len(rig.server.lists()) == 2 and rig.server.watching == 1)
    assert len(rig.server.requests) == 3


@pytest.mark.parametrize("pieces", [(), (b'{"code":',)])
async def test_an_error_body_that_stalls_does_not_hold_us(
    rig: Rig, pieces: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while the status alone counts, with what its head says of when to come back."""
    monkeypatch.setattr("kubeproxy_bpf.api.client.ERROR_BODY_TIMEOUT_S", 0.05)
    rig.server.put(service("a"))
    rig.server.script.append(refusal(503, *pieces, stall=True))
    async with rig.following():
        await until(lambda: rig.store.synced)
    assert rig.clock.slept[0] == 7.0


async def test_an_error_body_without_end_is_read_up_to_a_limit(rig: Rig) -> None:
    """A status whose body is too long for one is known by its code."""
    rig.server.put(service("a"))
    rig.server.script.append(refusal(503, *[b"x" * 65_536] * 64, stall=True))
    async with rig.following():
        await until(lambda: rig.store.synced)
    assert rig.clock.slept[0] == 7.0


async def test_an_error_body_that_is_cut_leaves_the_status(rig: Rig) -> None:
    """410 is 410, whatever became of its body."""
    rig.server.put(service("a"))
    async with rig.following():
        await until(lambda: rig.store.synced and rig.server.watching == 1)
        rig.server.script.append(refusal(410, b'{"code":', cut=True))
        rig.server.end_watches()
        await until(lambda: len(rig.server.lists()) == 2 and rig.server.watching == 1)
    assert len(rig.server.requests) == 3
