# SPDX-License-Identifier: Apache-2.0
"""Keeps a sink equal to one resource of the API server, for ever: list, watch, recover.

It decides when to list, when to watch, from where, and how long to wait after a failure; what
events mean is ``api.intake``'s part. Each attempt is one of three requests:

1. nothing known, server offers WatchList: one stream of all objects, then of changes;
2. nothing known, server does not: pages of a list, then 3;
3. a position known: a watch from there.

A position is known no more when the server says so, or when a watch was silent: a server whose
versions went back accepts a watch from where it has not got to, and says nothing until it has.

The old state stands until a new one is complete. Every attempt that fails, or that ends sooner than
a healthy one would, is followed by a growing delay, so that no answer of a server, however odd,
makes a hot loop. Lists ask for the most recent state and are never taken back in time without need
(``api.plausible``). Run by ``api.source``, one task per resource.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random
from typing import Collection, NoReturn

import aiohttp
import structlog

from kubeproxy_bpf.api.client import WATCH, ApiClient, Params, read_whole
from kubeproxy_bpf.api.clock import Backoff, Clock, SystemClock
from kubeproxy_bpf.api.decode import DecodeError, Malformed, Page, parse_page
from kubeproxy_bpf.api.intake import HistoryReplaced, Intake, Sink
from kubeproxy_bpf.api.lines import LineSplitter
from kubeproxy_bpf.api.objects import ObjectKey
from kubeproxy_bpf.api.plausible import Doubt, Plausibility, Shrunken
from kubeproxy_bpf.api.resources import Resource
from kubeproxy_bpf.api.silence import FirstSilence, InitialEventsEndless, Pulse, Silent, Watchdog
from kubeproxy_bpf.api.status import StatusError
from kubeproxy_bpf.excerpt import excerpt

log = structlog.get_logger("api")

_FORESEEN = (StatusError, Malformed, HistoryReplaced, Doubt, aiohttp.ClientError, OSError)
"""What a server or the way to it can do to us; TimeoutError is an OSError."""

FAILURES = (*_FORESEEN, ValueError, ArithmeticError)
"""The last two: what an answer that nobody thought of causes in libraries and in us."""

LARGEST_PAGE = 64 << 20
"""Of a list, in bytes; one that is larger is asked for in smaller pages."""

LONGEST_ERROR = 500
"""What is logged of an error, in characters."""

_RETRIED_AS_THEY_ARE = frozenset({401, 403, 408, 429})


@dataclass(frozen=True)
class ReflectorSettings:
    watch_timeout_s: tuple[float, float] = (300.0, 600.0)
    """The server is asked to end each watch after a random time in this range."""
    stall_slack_s: float = 30.0
    """A watch that is silent for this long after its time is dead."""
    list_stall_s: float = 60.0
    page_limit_s: float = 300.0
    """For a page of a list; smaller ones are asked for after one that took longer."""
    page_size: int = 500
    initial_idle_s: float = 10.0
    """Silence in an initial stream that shows a server that never ends one."""
    initial_limit_s: float = 60.0
    backoff_first_s: float = 0.8
    backoff_max_s: float = 30.0
    healthy_after_s: float = 10.0
    """An attempt that lived this long makes earlier failures forgotten."""
    retry_after_max_s: float = 120.0
    forbidden_first_s: tuple[float, ...] = (0.2, 0.6)
    """Before an optional resource is given up as one that we may not read: an API server that
    starts refuses before it has read the roles."""
    forbidden_retry_s: float = 60.0
    """Between attempts after that."""
    bad_stream_limit: int = 3
    """Unreadable streams in a row before a list is made instead."""
    yield_every: int = 100
    """Events between two chances for other tasks."""


class WatchListRefused(Exception):
    """The server cannot do WatchList; not an error for anybody."""


class Reflector:
    """Keeps one sink equal to one resource; ``run`` never ends."""

    def __init__(
        self,
        client: ApiClient,
        resource: Resource,
        sink: Sink,
        settings: ReflectorSettings = ReflectorSettings(),
        clock: Clock | None = None,
        random: Random | None = None,
        *,
        expected: Collection[ObjectKey] = (),
    ) -> None:
        """``expected``: what an earlier process knew; the first list is measured by it."""
        self._client = client
        self._resource = resource
        self._settings = settings
        self._clock = clock or SystemClock()
        self._random = random or Random()
        self._plausibility = Plausibility(self._clock.monotonic, expected=expected)
        self._intake = Intake(resource, sink, self._report, self._plausibility)
        self._pulse = Pulse()
        self._page_size = settings.page_size
        self._backoff = Backoff(settings.backoff_first_s, settings.backoff_max_s, self._random)
        self._watch_list = True
        self._anew = False
        self._spoken = False
        self._bad_streams = 0
        self._since_yield = 0
        self._refusals = 0

    async def run(self) -> NoReturn:
        while True:
            started = self._clock.monotonic()
            failure: Exception | None = None
            try:
                await self._attempt()
            except FAILURES as error:
                failure = error
            healthy = self._clock.monotonic() - started >= self._settings.healthy_after_s
            if healthy:
                self._backoff.reset()
            if failure is not None:
                self._learn(failure)
                await self._clock.sleep(self._delay_s(failure))
            else:
                self._refusals = 0
                if not healthy:
                    await self._clock.sleep(self._backoff.next())

    async def _attempt(self) -> None:
        # Who gave the last list was not believed; the next connection may end elsewhere. That goes
        # for the watch after the list too.
        self._anew = self._plausibility.doubts > 0
        if self._intake.position is None and self._watch_list:
            try:
                await self._initial_stream()
                return
            except (WatchListRefused, InitialEventsEndless) as refusal:
                log.info("watchlist_refused", kind=self._resource.kind, reason=self._told(refusal))
                self._watch_list = False
        if self._intake.position is None:
            await self._list()
        await self._watch()

    async def _initial_stream(self) -> None:
        """All objects as events, a bookmark that ends them, then changes, in one request."""
        self._intake.begin()
        try:
            await self._stream(
                (("sendInitialEvents", "true"), ("resourceVersionMatch", "NotOlderThan"))
            )
        except StatusError as error:
            if self._intake.collecting and _refuses(error) and not self._refused(error):
                raise WatchListRefused(str(error)) from None
            raise

    async def _watch(self) -> None:
        assert self._intake.position is not None
        self._spoken = False
        began = self._clock.monotonic()
        try:
            await self._stream((("resourceVersion", self._intake.position),))
        finally:
            lived_s = self._clock.monotonic() - began
            if not self._spoken and lived_s >= self._settings.watch_timeout_s[0]:
                self._intake.forget_position()

    async def _stream(self, params: Params) -> None:
        timeout_s = self._random.uniform(*self._settings.watch_timeout_s)
        params = (
            *self._resource.selectors,
            *params,
            WATCH,
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", str(max(1, round(timeout_s)))),
        )
        read_timeout_s = timeout_s + self._settings.stall_slack_s
        splitter = LineSplitter()
        async with self._client.get(
            self._resource.path, params, read_timeout_s, anew=self._anew
        ) as body:
            async with self._watchdog(read_timeout_s) as watchdog:
                async for chunk in body.iter_any():
                    bookmarks = self._intake.bookmarks
                    await self._events(splitter.feed(chunk))
                    watchdog.heard(self._intake.collecting, self._intake.bookmarks > bookmarks)
                    self._client.meters.heard(self._resource.kind.value)
        if splitter.unfinished:
            raise Malformed("watch", "cut in the middle of an event")

    def _watchdog(self, life_s: float) -> Watchdog:
        settings = self._settings
        return Watchdog(
            self._pulse,
            self._intake.collecting,
            settings.initial_idle_s,
            settings.initial_limit_s,
            life_s,
        )

    async def _events(self, lines: list[bytes]) -> None:
        for line in lines:
            position = self._intake.position
            self._intake.event(line)
            self._spoken = True
            self._bad_streams = 0
            if position is not None and self._intake.position != position:
                # A server that brings news is well: faults that lie apart must not add up.
                self._backoff.reset()
            self._since_yield += 1
            if self._since_yield >= self._settings.yield_every:
                await self._let_others_run()

    async def _let_others_run(self) -> None:
        self._since_yield = 0
        await asyncio.sleep(0)

    async def _list(self) -> None:
        """All pages of a list. Nothing takes effect before the last one has come."""
        self._intake.begin()
        page = await self._page("")
        version, seen = page.version, {""}
        while True:
            for raw in page.items:
                self._intake.add(raw)
                self._since_yield += 1
                if self._since_yield >= self._settings.yield_every:
                    await self._let_others_run()
            if not page.continue_:
                break
            if page.continue_ in seen:
                raise Malformed(f"{self._resource.kind}List", "continue token came twice")
            seen.add(page.continue_)
            page = await self._page(page.continue_)
        self._page_size = self._settings.page_size
        self._intake.commit(version)

    async def _page(self, continue_: str) -> Page:
        params = self._resource.selectors + (("limit", str(self._page_size)),)
        if continue_:
            params += (("continue", continue_),)
        async with self._client.get(
            self._resource.path,
            params,
            self._settings.list_stall_s,
            compressed=True,
            anew=self._anew,
        ) as body:
            content = await self._whole(body)
        if content is None:
            self._page_size = max(1, self._page_size // 10)
            raise Malformed(f"{self._resource.kind}List", "a page too large, or too slow")
        page = parse_page(content, self._resource.kind)
        self._client.meters.heard(self._resource.kind.value)
        return page

    async def _whole(self, body: aiohttp.StreamReader) -> bytes | None:
        """A page, if it ends in time and is not too large."""
        try:
            async with asyncio.timeout(self._settings.page_limit_s) as limit:
                return await read_whole(body, LARGEST_PAGE)
        except TimeoutError:
            if not limit.expired():
                raise
            return None

    def _learn(self, failure: Exception) -> None:
        """What a failure says about our position; and say so, once per failure."""
        self._client.meters.failed(self._resource.kind.value)
        unforeseen = not isinstance(failure, _FORESEEN)
        if unforeseen or isinstance(failure, Malformed):
            self._bad_streams += 1
        relist = (
            isinstance(failure, (HistoryReplaced, Silent))
            or (isinstance(failure, StatusError) and _outdates_position(failure))
            or self._bad_streams >= self._settings.bad_stream_limit
        )
        if relist:
            self._bad_streams = 0
            self._intake.forget_position()
        self._refusals = self._refusals + 1 if self._refused(failure) else 0
        if self._resource.optional and self._refusals:
            self._learn_refusal(failure)
        elif isinstance(failure, FirstSilence):
            log.info("watch_silent", kind=self._resource.kind, error=self._told(failure))
        elif self._refusals < 2:
            log.warning(
                "list_doubted" if isinstance(failure, Doubt) else "watch_failed",
                kind=self._resource.kind,
                error=self._told(failure),
                relist=relist,
                exc_info=failure if unforeseen else None,
            )

    def _learn_refusal(self, failure: Exception) -> None:
        """Not an error but a role without the rule, said once: only when it is sure."""
        tolerated = len(self._settings.forbidden_first_s)
        if self._refusals > tolerated:
            self._intake.unavailable()
        if self._refusals == tolerated + 1:
            log.warning(
                "resource_not_shown",
                kind=self._resource.kind,
                error=self._told(failure),
                without=self._resource.without,
            )

    def _told(self, error: Exception) -> str:
        """For the log: the words are the server's, who may say anything at any length."""
        text = self._client.without_secrets(str(error) or type(error).__name__)
        return text if len(text) <= LONGEST_ERROR else f"{text[:LONGEST_ERROR]} …"

    def _refused(self, failure: Exception) -> bool:
        return isinstance(failure, StatusError) and failure.status in self._resource.refusals

    def _delay_s(self, failure: Exception) -> float:
        if isinstance(failure, Shrunken) and self._plausibility.doubts == 1:
            # The second list decides, and the outage before the first may have been long.
            return self._settings.backoff_first_s * self._random.uniform(0.5, 1.0)
        if not isinstance(failure, StatusError):
            return self._backoff.next()
        if self._resource.optional and self._refused(failure):
            return self._forbidden_delay_s()
        asked_s = min(failure.retry_after_s or 0.0, self._settings.retry_after_max_s)
        return max(asked_s, self._backoff.next())

    def _forbidden_delay_s(self) -> float:
        if self._refusals <= len(self._settings.forbidden_first_s):
            return self._settings.forbidden_first_s[self._refusals - 1]
        return self._settings.forbidden_retry_s * self._random.uniform(0.8, 1.2)

    def _report(self, error: DecodeError) -> None:
        namespace, name = error.key or ("", "")
        log.warning(
            "object_malformed",
            kind=error.kind,
            namespace=excerpt(namespace),
            name=excerpt(name),
            field=error.field,
            error=error.message,
            resource_version=error.version,
        )


def _refuses(error: StatusError) -> bool:
    return 400 <= error.status < 500 and error.status not in _RETRIED_AS_THEY_ARE | {410}


def _outdates_position(error: StatusError) -> bool:
    """410, a version from another history, or a request that will never be accepted as it is."""
    if error.version_too_large:
        return True
    return 400 <= error.status < 500 and error.status not in _RETRIED_AS_THEY_ARE
