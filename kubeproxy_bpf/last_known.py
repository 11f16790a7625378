# SPDX-License-Identifier: Apache-2.0
"""Keeps the last known API objects on disk, and serves them where nothing else is known.

After a reboot the maps are empty, and the API server may stand behind one of our own Services: then
nobody could ever ask it. The rules of the start:

1. Programs of an earlier process serve already: their maps are newer than any snapshot, nothing of
   it is programmed. Those of one that recalled this snapshot, and ended before it knew better, do
   not count.
2. The API server's address is the cluster IP of a Service of it: that is programmed before the
   first request is made, which could go nowhere.
3. Otherwise the API server has a moment to answer first, and once it has, the time to tell all.

In each case the endpoints of the API server's Service are remembered, and first lists are measured
by what the snapshot names.

What is recalled is replaced as a whole by the first complete lists. From then on a snapshot is
written after changes, in a thread, with a rest after each, and at an orderly end. Whether a sync is
one of memories is told apart by ``feed``; ``app`` builds this and calls it.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import (
    Any,
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Mapping,
    Protocol,
    TypeVar,
)
from urllib.parse import urlsplit

import structlog

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.api.credentials import Connection
from kubeproxy_bpf.api.decode import ApiObject, Kind
from kubeproxy_bpf.api.meters import SnapshotMeters
from kubeproxy_bpf.api.objects import EndpointSlice, ObjectKey
from kubeproxy_bpf.api.snapshot import Identity, Snapshot, SnapshotRefused, encode
from kubeproxy_bpf.api.snapshot_file import SnapshotFile
from kubeproxy_bpf.api.snapshot_way import leads_through, without_addresses
from kubeproxy_bpf.api.store import Store
from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.model.slices import API_SERVER
from kubeproxy_bpf.threads import in_own_thread

_DISK_WAIT_S = 5.0
"""So long start and end wait for a disk, which may hang for ever."""
ANSWER_WAIT_S = 1.0
"""So long the API server may say nothing at all before a snapshot stands in."""
_LISTS_WAIT_S = 10.0
"""So long one that says anything, be it an error, may take to tell everything: large lists take
seconds, and so do the refusals after which nobody waits for Pods."""
_NAME_WAIT_S = 1.0
_PROGRAMMED_WAIT_S = 10.0
_GATHER_S = 1.0
"""Changes come in swarms."""
_INTERVAL_S = 10.0
_REST = 50.0
"""Times as long as a snapshot took: never more than a fiftieth of a processor."""

_COUNTED = (Kind.SERVICE, Kind.ENDPOINT_SLICE)

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class Client(Protocol):
    """The part of ApiClient that says where the API server is."""

    @property
    def connection(self) -> Connection: ...

    @property
    def answered(self) -> bool: ...


class Model(Protocol):
    """The part of ClusterModel that keeps the API server's Service reachable."""

    def remember_api_server(self, slices: Iterable[EndpointSlice]) -> None: ...

    def api_server_slices(self) -> tuple[EndpointSlice, ...]: ...


class LastKnown:
    """One for each process; without a path it does nothing. A subscriber of the store."""

    def __init__(
        self,
        config: Config,
        client: Client,
        store: Store,
        model: Model,
        meters: SnapshotMeters,
    ) -> None:
        path = config.snapshot_path
        self._disk = SnapshotFile(Path(path)) if path else None
        self._file = self._disk
        """None: not in use, or no more."""
        self._node = config.hostname
        self._client = client
        self._store = store
        self._model = model
        self._meters = meters
        self._expected: dict[Kind, frozenset[ObjectKey]] = {}
        self._snapshot: Snapshot | None = None
        """Read, and to be recalled if nothing better comes in time."""
        self._programmed = asyncio.Event()
        self._synced = asyncio.Event()
        self._changed = asyncio.Event()
        self._forgotten = False
        """Whether the next process was told that the maps hold more than memories."""
        self._writing: asyncio.Future[int] | None = None
        """The last write, which may go on when nobody waits for it any more."""
        self._changes = self._written = 0
        self._error = ""
        if self._file is not None:
            store.subscribe(self)

    # ---- told by the store ----

    def on_change(
        self, kind: Kind, key: ObjectKey, old: ApiObject | None, new: ApiObject | None
    ) -> None:
        """Something is to be written, once everything is known."""
        self._changes += 1
        self._changed.set()

    def on_recalled(self) -> None:
        """That is our own doing."""

    def on_synced(self) -> None:
        """The API server has told everything."""
        self._snapshot = None
        self._meters.in_use({})
        self._changes += 1
        self._changed.set()
        self._synced.set()

    # ---- told by the application ----

    @asynccontextmanager
    async def opened(self, serves_already: bool) -> AsyncIterator[None]:
        """Look at what an earlier process left, whose programs may be at work already; at the end
        write what is not written yet: a reboot begins with an orderly end."""
        await self._open(serves_already)
        try:
            yield
        finally:
            await self._end()

    def expected(self) -> Mapping[Kind, Collection[ObjectKey]]:
        """What would take endpoints away if the first lists lacked it; given away once."""
        given, self._expected = self._expected, {}
        return given

    async def reach(self, source: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Run the API source, once there is a way to the API server."""
        if self._snapshot is not None and self._is_own_service(self._snapshot):
            await self._recall()
            try:
                async with asyncio.timeout(_PROGRAMMED_WAIT_S):
                    await self._programmed.wait()
            except TimeoutError:
                _log.warning("snapshot_not_programmed", waited_s=_PROGRAMMED_WAIT_S)
        await source()

    async def about_to_program(self) -> None:
        """Before anything newer than the snapshot comes into the maps, take back that they hold
        memories: a next process must not go back to these, whenever this one ends."""
        if self._synced.is_set() and not self._forgotten:
            self._forgotten = True
            await self._note(SnapshotFile.forget_recalled)

    def programmed(self) -> None:
        """All that was told is programmed, and the programs are at work."""
        self._programmed.set()

    async def run(self) -> None:
        """Recall in time what was read; then write for ever."""
        if self._snapshot is not None and not await self._is_told():
            await self._recall()
        await self._synced.wait()
        while True:
            await self._changed.wait()
            await asyncio.sleep(_GATHER_S)
            begin = time.monotonic()
            await self._write()
            await asyncio.sleep(max(_INTERVAL_S, _REST * (time.monotonic() - begin)))

    # ---- within ----

    async def _open(self, serves_already: bool) -> None:
        if self._file is None:
            return
        snapshot = await self._read(self._file)
        if self._file is not None:
            await self._prepare(self._file)
        if snapshot is None:
            return
        self._meters.written(snapshot.written)
        self._model.remember_api_server(_api_server_slices(snapshot.objects))
        self._expected = {
            kind: frozenset(each.key for each in snapshot.objects[kind]) for kind in _COUNTED
        }
        if serves_already and not await self._serves_memories(snapshot):
            _log.info("snapshot_not_needed", reason="programs of an earlier process serve")
        else:
            self._snapshot = snapshot

    async def _serves_memories(self, snapshot: Snapshot) -> bool:
        """Whether the programs that serve have nothing better than this snapshot either."""
        if self._file is None:
            return False
        try:
            return await _in_time(partial(self._file.is_recalled, snapshot))
        except TimeoutError:
            self._turn_off("the disk does not answer")
            return False

    async def _note(self, work: Callable[[SnapshotFile], None]) -> None:
        """Keep in step what the next process is told about where this one's maps come from.

        Also without a snapshot of our own: the next one may find the disk as it was before."""
        if self._disk is None:
            return
        try:
            await _in_time(partial(work, self._disk))
        except OSError as error:
            text = str(error) or "the disk does not answer"
            _log.warning("snapshot_use_not_noted", path=str(self._disk.path), error=text)

    def _identity(self) -> Identity:
        return Identity(self._node, cluster_of(self._client.connection))

    async def _read(self, file: SnapshotFile) -> Snapshot | None:
        try:
            return await _in_time(partial(file.read, self._identity()))
        except TimeoutError:
            self._turn_off("the disk does not answer")
            return None
        except Exception as error:  # whatever it is: the start is as without a snapshot
            reason = error.reason if isinstance(error, SnapshotRefused) else "unreadable"
            self._meters.errors.inc(reason)
            _log.warning("snapshot_refused", path=str(file.path), error=str(error))
            return None

    async def _prepare(self, file: SnapshotFile) -> None:
        try:
            await _in_time(file.prepare)
        except OSError as error:
            self._turn_off(str(error) or "the disk does not answer")

    async def _end(self) -> None:
        """Write what is not written yet; not beside a write that hangs, and not for ever."""
        try:
            async with asyncio.timeout(_DISK_WAIT_S):
                if self._writing is not None:
                    await asyncio.wait([self._writing])
                if self._synced.is_set() and self._changes > self._written:
                    await self._write()
        except TimeoutError:
            self._turn_off("the disk does not answer")

    def _turn_off(self, error: str) -> None:
        if self._file is not None:
            _log.warning("snapshot_off", path=str(self._file.path), error=error)
        self._file = None

    async def _is_told(self) -> bool:
        """Whether the API server tells everything in time."""
        if await self._is_synced_in(ANSWER_WAIT_S):
            return True
        return self._client.answered and await self._is_synced_in(_LISTS_WAIT_S - ANSWER_WAIT_S)

    async def _is_synced_in(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self._synced.wait()
        return False

    def _is_own_service(self, snapshot: Snapshot) -> bool:
        return leads_through(snapshot.objects[Kind.SERVICE], parse_address(self._api_host()))

    def _api_host(self) -> str:
        return urlsplit(self._client.connection.host).hostname or ""

    async def _api_addresses(self) -> set[bytes]:
        """The addresses of the API server, as far as they can be known without it."""
        name = self._api_host()
        address = parse_address(name)
        if address is not None:
            return {address}
        try:
            look_up = in_own_thread(partial(socket.getaddrinfo, name, None))
            found = await asyncio.wait_for(look_up, _NAME_WAIT_S)
        except (OSError, ValueError):
            return set()
        return {parsed for entry in found if (parsed := parse_address(str(entry[4][0])))}

    async def _recall(self) -> None:
        """Serve what was known, until the API server tells what is true."""
        snapshot, self._snapshot = self._snapshot, None
        if snapshot is None:
            return
        addresses = await self._api_addresses()
        if self._file is not None:  # else the disk may hang, and without a note nothing goes wrong
            await self._note(lambda file: file.note_recalled(snapshot))
        if self._synced.is_set():  # meanwhile, and the note may have come last
            await self._note(SnapshotFile.forget_recalled)
            return
        counts = {kind.value: len(found) for kind, found in snapshot.objects.items()}
        age_s = round(max(time.time() - snapshot.written, 0.0))
        _log.warning("snapshot_recalled", age_s=age_s, **counts)
        self._meters.in_use(counts)
        self._store.recall(
            {
                kind: {each.key: without_addresses(each, addresses) for each in found}
                for kind, found in snapshot.objects.items()
            }
        )

    async def _write(self) -> None:
        if self._file is None:
            return
        self._changed.clear()
        changes, now = self._changes, time.time()
        try:
            pieces = encode(self._identity(), now, self._found())
            self._writing = in_own_thread(partial(self._file.write, pieces))
            size = await asyncio.shield(self._writing)
        except Exception as error:  # the proxy serves, whatever becomes of a file
            self._meters.errors.inc("not_written")
            self._changed.set()
            if self._error != (text := str(error) or type(error).__name__):
                _log.error("snapshot_not_written", path=str(self._file.path), error=text)
            self._error = text
        else:
            self._written, self._error = changes, ""
            self._meters.writes.inc()
            self._meters.written(now)
            _log.debug("snapshot_written", bytes=size)

    def _found(self) -> dict[Kind, tuple[ApiObject, ...]]:
        """All that is known now; of the API server's Service what it is served with."""
        found = {kind: tuple(self._store.objects(kind).values()) for kind in Kind}
        others = (each for each in found[Kind.ENDPOINT_SLICE] if not _is_of_api_server(each))
        found[Kind.ENDPOINT_SLICE] = (*others, *self._model.api_server_slices())
        return found


async def _in_time(work: Callable[[], T]) -> T:
    """Do this on the disk; TimeoutError: it hangs."""
    return await asyncio.wait_for(in_own_thread(work), _DISK_WAIT_S)


def cluster_of(connection: Connection) -> str:
    """Tell clusters apart as far as that is possible without asking: by address and by CA, since
    in many clusters the address is the same.

    Raises:
        OSError: the CA cannot be read.
    """
    url = urlsplit(connection.host)
    host = f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"
    if not connection.ssl_ca_cert:
        return host
    authority = hashlib.sha256(Path(connection.ssl_ca_cert).read_bytes())
    return f"{host} {authority.hexdigest()[:16]}"


def _is_of_api_server(each: ApiObject) -> bool:
    return isinstance(each, EndpointSlice) and (each.namespace, each.service) == API_SERVER


def _api_server_slices(objects: Any) -> list[EndpointSlice]:
    return [each for each in objects[Kind.ENDPOINT_SLICE] if _is_of_api_server(each)]
