# SPDX-License-Identifier: Apache-2.0
"""Events for ``kubectl get events``: what the cluster's users should see, sent as events.k8s.io/v1.

Recording only writes a note; ``run`` sends the notes one by one. What repeats becomes a series of
one Event, as Kubernetes' own recorder does it. Nobody waits for an event and nothing depends on
one: a server that does not allow them is named once in the log, a flood is cut off and counted.
Which events there are is the business of ``events``. One event loop.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict, deque
from datetime import datetime, timezone
from random import Random
from typing import Any, NamedTuple, NoReturn

import structlog

from kubeproxy_bpf.api.client import ApiClient
from kubeproxy_bpf.api.clock import Backoff, Clock, SystemClock
from kubeproxy_bpf.api.reflector import FAILURES
from kubeproxy_bpf.api.status import StatusError

NORMAL = "Normal"
WARNING = "Warning"

SERIES_S = 360.0
"""What happens again within this time belongs to the same Event, and so often it is updated."""
REMEMBERED = 1024
"""Events that may become a series; the oldest are forgotten."""
BURST = 50
PER_SECOND = 1.0
"""New Events beyond a burst. A full map may concern thousands of Services at once."""
TRIES = 12
NOTE_BYTES = 1024
INSTANCE_CHARS = 128
_PASSING = (401, 408, 429)
"""Refusals that may be over soon, as all from 500 on."""
_JSON = "application/json"
_PATCH = "application/strategic-merge-patch+json"
_log = structlog.get_logger(__name__)


class Regarding(NamedTuple):
    """The object that an event is about."""

    kind: str
    name: str
    namespace: str = ""
    uid: str = ""
    """Empty where it is not known, as for the own Node."""


class Happening(NamedTuple):
    """What happened. Two that are equal are one Event that happened twice."""

    regarding: Regarding
    type: str
    reason: str
    action: str
    note: str


class _Event:
    """A happening as the API server knows it, or will."""

    def __init__(self, happening: Happening, serial: int, wall: float) -> None:
        self.happening = happening
        # By the nanosecond, as Kubernetes' own recorder names them. Two events of one moment
        # would have one name without the serial number.
        self.name = f"{happening.regarding.name[:236]}.{int(wall * 1e9) + serial:x}"
        self.first = self.last = wall
        self.seen = 0.0
        self.count = 0
        self.told = 0
        """The count that the API server knows; 0: it does not have the Event."""
        self.not_before = 0.0
        self.queued = False

    @property
    def collection(self) -> str:
        """Events about what has no namespace live in the default one."""
        namespace = self.happening.regarding.namespace or "default"
        return f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"


class Recorder:
    """Takes notes at any time; ``run`` and ``finish`` send them."""

    def __init__(self, component: str, host: str, clock: Clock | None = None) -> None:
        self._component = component
        self._instance = f"{component}-{host}"[:INSTANCE_CHARS]
        self._clock = clock or SystemClock()
        self._events: OrderedDict[Happening, _Event] = OrderedDict()
        self._queue: deque[_Event] = deque()
        self._noted = asyncio.Event()
        self._tokens = float(BURST)
        self._refilled = self._clock.monotonic()
        self._refusals: set[int] = set()
        self._sending = False
        self._serials = itertools.count()
        self.dropped = 0
        """What nobody will see."""

    @property
    def idle(self) -> bool:
        """Whether nothing is being sent, or waits for something that is."""
        return not self._sending and not self._queue

    def record(self, happening: Happening) -> None:
        """Note it. Returns at once and never fails."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        event = self._events.get(happening)
        if event is None or now - event.seen >= SERIES_S:
            if not self._may_begin(now):
                self.dropped += 1
                return
            event = self._events[happening] = _Event(happening, next(self._serials), wall)
            while len(self._events) > REMEMBERED:
                self._events.popitem(last=False)
        event.count += 1
        event.seen, event.last = now, wall
        self._enqueue(event)

    def _may_begin(self, now: float) -> bool:
        self._tokens = min(BURST, self._tokens + (now - self._refilled) * PER_SECOND)
        self._refilled = now
        if self._tokens < 1 or len(self._queue) >= REMEMBERED:
            return False
        self._tokens -= 1
        return True

    def _enqueue(self, event: _Event) -> None:
        if event.queued:
            return
        event.queued = True
        delay = event.not_before - self._clock.monotonic()
        if delay > 0:
            asyncio.get_running_loop().call_later(delay, self._due, event)
        else:
            self._due(event)

    def _due(self, event: _Event) -> None:
        self._queue.append(event)
        self._noted.set()

    async def run(self, client: ApiClient) -> NoReturn:
        """Send for ever."""
        while True:
            while not self._queue:
                self._noted.clear()
                await self._noted.wait()
            event = self._queue.popleft()
            self._sending = True
            try:
                await self._send_patiently(client, event)
            except asyncio.CancelledError:
                self._queue.appendleft(event)
                raise
            finally:
                self._sending = False
            event.queued = False
            if event.count > event.told:
                self._enqueue(event)

    async def finish(self, client: ApiClient, limit_s: float = 1.0) -> None:
        """Send what is left at the end of the process, if that is quickly done."""
        try:
            async with asyncio.timeout(limit_s):
                while self._queue:
                    await self._send(client, self._queue.popleft())
        except FAILURES as error:
            _log.debug("events_lost", error=str(error) or type(error).__name__)

    async def _send_patiently(self, client: ApiClient, event: _Event) -> None:
        backoff = Backoff(1.0, 30.0, Random())
        for left in reversed(range(TRIES)):
            try:
                return await self._send(client, event)
            except StatusError as error:
                if error.status < 500 and error.status not in _PASSING:
                    self._report(client, error)
                    break
            except FAILURES as error:
                _log.debug("event_delayed", error=str(error) or type(error).__name__)
            if left:
                await self._clock.sleep(backoff.next())
        self.dropped += 1
        event.told = event.count

    def _report(self, client: ApiClient, error: StatusError) -> None:
        """Name each way of saying no once: the next event would be refused like this one."""
        if error.status not in self._refusals:
            self._refusals.add(error.status)
            _log.warning("events_refused", error=client.without_secrets(str(error)))

    async def _send(self, client: ApiClient, event: _Event) -> None:
        count = event.count
        if event.told:
            try:
                patch = {"series": self._series(event)}
                await client.write("PATCH", f"{event.collection}/{event.name}", patch, _PATCH)
            except StatusError as error:
                if error.status != 404:
                    raise
                await self._create(client, event)  # it was too old for the API server
            event.not_before = self._clock.monotonic() + SERIES_S
        else:
            await self._create(client, event)
        event.told = count

    async def _create(self, client: ApiClient, event: _Event) -> None:
        try:
            await client.write("POST", event.collection, self._object(event), _JSON)
        except StatusError as error:
            if error.status != 409:  # sent before, and the answer was lost
                raise

    def _object(self, event: _Event) -> dict[str, Any]:
        happening, regarding = event.happening, event.happening.regarding
        reference = {"kind": regarding.kind, "apiVersion": "v1", "name": regarding.name}
        if regarding.namespace:
            reference["namespace"] = regarding.namespace
        if regarding.uid:
            reference["uid"] = regarding.uid
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": event.name, "namespace": regarding.namespace or "default"},
            "eventTime": _micro_time(event.first),
            "reportingController": self._component,
            "reportingInstance": self._instance,
            "action": happening.action,
            "reason": happening.reason,
            "regarding": reference,
            "note": happening.note.encode()[:NOTE_BYTES].decode(errors="ignore"),
            "type": happening.type,
            **({"series": self._series(event)} if event.count > 1 else {}),
        }

    @staticmethod
    def _series(event: _Event) -> dict[str, Any]:
        return {"count": event.count, "lastObservedTime": _micro_time(event.last)}


def _micro_time(wall: float) -> str:
    moment = datetime.fromtimestamp(wall, timezone.utc)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
