# SPDX-License-Identifier: Apache-2.0
"""The composition root: builds all parts, runs them as one group of tasks, stops on a signal.

Only this module knows everybody. The order of the start is the order of ``_serve``: servers,
kernel probe, the writer's lock, maps (restored), then API and node at once; the programs are
attached when the first sync has filled the maps, be it with what an earlier process knew
(``last_known``). SIGTERM and SIGINT end the process and leave the datapath as it is; so does any
failure.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Callable, Coroutine, NoReturn

import structlog

from kubeproxy_bpf import __version__, memory
from kubeproxy_bpf.api.client import ApiClient
from kubeproxy_bpf.api.credentials import Credentials
from kubeproxy_bpf.api.source import ApiSource, node_store
from kubeproxy_bpf.api.store import Store
from kubeproxy_bpf.audit.run import SelfAudit
from kubeproxy_bpf.config.gates import enabled
from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.config.validate import split_host_port
from kubeproxy_bpf.config.watch import watch_config
from kubeproxy_bpf.dataplane.program import Outcome, Programmer
from kubeproxy_bpf.errors import KubeProxyError
from kubeproxy_bpf.feed import Feed
from kubeproxy_bpf.host.conntrack import ConntrackCleanup
from kubeproxy_bpf.host.state import HostState
from kubeproxy_bpf.instance import Instance
from kubeproxy_bpf.last_known import LastKnown
from kubeproxy_bpf.model.cluster import ClusterModel, Step
from kubeproxy_bpf.model.facts import KUBELET_PORTS, MOST_ENDPOINTS, MOST_FRONTENDS, ModelConfig
from kubeproxy_bpf.model.types import Family, Protocol
from kubeproxy_bpf.node.devices import DeviceWatcher
from kubeproxy_bpf.node.families import supported_families
from kubeproxy_bpf.packet_state import NoPacketState, packet_state
from kubeproxy_bpf.service_counts import CountedServices
from kubeproxy_bpf.status import Status
from kubeproxy_bpf.sync import SyncLoop
from kubeproxy_bpf.takeover.takeover import Takeover
from kubeproxy_bpf.telemetry import Telemetry

_log = structlog.get_logger(__name__)


class App:
    """One proxy process."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._families = supported_families(config.bind_address)
        self._status = Status(config, self._families)
        self._stopping = False
        self._known = False
        """Whether what was taken last is what the API server said, and no memory."""
        self._synced = asyncio.Event()
        """Set when all that the API server said at the start is programmed."""
        names = tuple(f"IPv{int(family)}" for family in self._families)
        self._telemetry = Telemetry(config, names, lambda: self._status.health.waiting_for_writer)

    async def run(self) -> None:
        """Run until a signal comes.

        Raises:
            KubeProxyError: what ended the process.
        """
        self._stop_on_signals()
        _log.info("proxy_started", version=__version__, node=self._config.hostname)
        try:
            await self._serve()
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        except BaseExceptionGroup as group:
            raise _first(group) from group
        _log.info("proxy_stopped")

    def _stop_on_signals(self) -> None:
        task = asyncio.current_task()
        assert task is not None

        def stop() -> None:
            self._stopping = True
            task.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as tasks, AsyncExitStack() as stack:
            watch = partial(watch_config, self._config)
            tasks.create_task(_eternal("configuration watch", watch))
            credentials = Credentials(self._config.kubeconfig or None, self._config.master or None)
            await credentials.load()
            client = await stack.enter_async_context(
                ApiClient(credentials, meters=self._telemetry.rest)
            )
            host_state = HostState(self._config, self._telemetry.conntrack)
            await host_state.prepare()
            stack.push_async_callback(self._status.finish, client)
            for name, work in self._status.tasks(client, self._telemetry):
                tasks.create_task(_eternal(name, work))
            instance = Instance(self._config, host_state.forward_mark)
            stack.push_async_callback(instance.close)
            await instance.open(self._status.health.writer_awaited)
            tasks.create_task(_eternal("host state", host_state.run))
            await self._follow(client, instance, host_state.conntrack, stack)

    async def _follow(
        self,
        client: ApiClient,
        instance: Instance,
        conntrack: ConntrackCleanup,
        stack: AsyncExitStack,
    ) -> None:
        config, status, telemetry = self._config, self._status, self._telemetry
        model = ClusterModel(model_config(config, self._families))

        def report(outcome: Outcome) -> None:
            sync.note(outcome)
            if outcome.lost:
                instance.abort_lost_sockets(backend for _, backend in outcome.lost)

        def taken(step: Step) -> None:
            self._known = feed.complete
            status.taken(step, self._known)
            conntrack.note(step.changes)

        programmer = Programmer(instance.writer, report)
        stack.push_async_callback(programmer.close)
        await programmer.start()
        packets = packet_state(instance.packets, programmer, instance.at_work)
        by_packet = instance.packets.datapath if instance.packets else None
        counted = CountedServices(config, instance.sockets, by_packet, programmer)
        stack.callback(counted.close)
        sync = SyncLoop(
            model,
            programmer,
            min_interval_s=config.min_sync_period_s,
            retry_s=config.sync_period_s,
            before=lambda: last_known.about_to_program(),
            on_taken=taken,
            on_finished=lambda: self._sync_finished(instance, conntrack, last_known),
            on_udp_changed=instance.abort_lost_sockets,
            on_unfit=status.events.port_unfit,
            meters=telemetry.sync,
        )
        telemetry.follow(instance, programmer, sync, packets, counted)
        stack.push_async_callback(telemetry.leave)
        store = node_store()
        last_known = LastKnown(config, client, store, model, telemetry.snapshot)
        await stack.enter_async_context(last_known.opened(instance.serves_already))
        feed = self._feed(model, store, sync, packets, instance)
        status.events.started(config.mode)
        source = ApiSource(client, store, config.hostname, expected=last_known.expected())
        devices = DeviceWatcher(
            feed.addresses_changed, instance.devices_changed, instance.filters_changed
        )
        audit = SelfAudit(
            instance, programmer, config.audit_period_s, telemetry.audit, status.health.hooks_judged
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_eternal("API source", partial(last_known.reach, source.run)))
            tasks.create_task(_eternal("last known objects", last_known.run))
            tasks.create_task(_eternal("device watcher", devices.run))
            tasks.create_task(_eternal("sync loop", sync.run))
            tasks.create_task(_eternal("socket terminator", instance.run_terminator))
            tasks.create_task(_eternal("packet path", instance.run_packets))
            tasks.create_task(_eternal("flow sweep", packets.run))
            tasks.create_task(_eternal("inspection", instance.run_inspection))
            tasks.create_task(_eternal("self-audit", audit.run))
            tasks.create_task(self._take_over(instance))

    def _feed(
        self,
        model: ClusterModel,
        store: Store,
        sync: SyncLoop,
        packets: NoPacketState,
        instance: Instance,
    ) -> Feed:
        """What takes in objects and addresses, and wakes the sync."""
        status = self._status
        status.events.uid_of = store.uid

        def wake() -> None:
            status.health.change_queued()
            sync.wake()

        feed = Feed(
            model,
            self._config,
            wake=wake,
            node_seen=status.health.node_seen,
            unreadable=lambda: store.unreadable,
            node_known=packets.node_known,
            uplink=instance.is_uplink,
            listen_on=status.service_health.listen_on,
            meters=self._telemetry.sync,
        )
        store.subscribe(feed)
        return feed

    async def _take_over(self, instance: Instance) -> None:
        """Not before the first sync: what an earlier process knew may be older than the rules."""
        await self._synced.wait()
        found = self._telemetry.takeover.found
        await Takeover(self._config, instance.device_reading, found=found).run()

    async def _sync_finished(
        self, instance: Instance, conntrack: ConntrackCleanup, last_known: LastKnown
    ) -> None:
        await instance.attach()
        last_known.programmed()
        self._status.synced(self._known)
        if not self._known:
            return
        conntrack.synced()
        if not self._synced.is_set():
            self._synced.set()
            memory.synced()


def model_config(config: Config, families: tuple[Family, ...]) -> ModelConfig:
    """What of the configuration decides about Services."""
    listeners = (config.healthz_bind_address, config.metrics_bind_address)
    own_ports = {
        (split_host_port(address)[1], int(Protocol.TCP)) for address in listeners if address
    }
    return ModelConfig(
        config.hostname,
        families=families,
        allow_external_ips=enabled(config.feature_gates, "AllowServiceExternalIPs"),
        # With DSR the backend's node has to find the same backend by itself.
        consistent_default=config.algorithm == "maglev" or config.forwarding != "snat",
        max_frontends=max(MOST_FRONTENDS, config.map_sizes.frontends),
        max_endpoints=max(MOST_ENDPOINTS, config.map_sizes.slots),
        protected_ports=KUBELET_PORTS | own_ports,
    )


async def _eternal(name: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> NoReturn:
    """A task that should never end is an error when it does."""
    task = asyncio.current_task()
    assert task is not None
    task.set_name(name)  # as /debug/pprof/tasks shows it
    await work()
    raise KubeProxyError(f"the {name} ended")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first real cause in a tree of exception groups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return _first(error)
        return error
    return group
