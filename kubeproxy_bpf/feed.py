# SPDX-License-Identifier: Apache-2.0
"""Carries what changed, at the API server and on this node, into the model, and wakes the sync.

It also holds the gate of the start: the model is told that everything is known only when the store
is complete *and* the node's own addresses have been read, since without them node ports would look
deleted. What the store recalls of an earlier process opens it halfway: that is programmed, and
nothing is pruned. While an object of the start is unreadable the model is told so, and nothing is
pruned: what the previous process programmed may belong to it. Built by ``app``; subscribed to
``api.store``; called by ``node.devices``.
"""

from __future__ import annotations

from typing import Callable, Collection, Mapping

import structlog

from kubeproxy_bpf.api.decode import ApiObject, Kind
from kubeproxy_bpf.api.objects import EndpointSlice, Node, ObjectKey, Pod, Service, ServiceCIDR
from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.dataplane.node import NodeFacts
from kubeproxy_bpf.meters import SyncMeters
from kubeproxy_bpf.model.cluster import ClusterModel
from kubeproxy_bpf.model.types import Family
from kubeproxy_bpf.node.addresses import NodePortPolicy, node_addresses
from kubeproxy_bpf.node.devices import LocalAddress
from kubeproxy_bpf.node.identity import is_uplink, node_facts, node_ips

_log = structlog.get_logger(__name__)

_NAMED = 10
"""Objects in one line of the log."""


class Feed:
    """Subscriber of the store and of the device watcher."""

    def __init__(
        self,
        model: ClusterModel,
        config: Config,
        *,
        wake: Callable[[], None],
        node_seen: Callable[[Node | None], None],
        unreadable: Callable[[], Collection[tuple[Kind, ObjectKey]]] = frozenset,
        node_known: Callable[[NodeFacts], None] = lambda facts: None,
        uplink: Callable[[str], bool] = is_uplink,
        listen_on: Callable[[Mapping[Family, Collection[str] | None]], None] = lambda hosts: None,
        meters: SyncMeters | None = None,
    ) -> None:
        """``node_known`` hears who this node is, from the start's gate on and after each change.

        ``listen_on`` hears where health checks of Services listen, None for all addresses.
        """
        self._model = model
        self._config = config
        self._wake = wake
        self._node_seen = node_seen
        self._unreadable = unreadable
        self._node_known = node_known
        self._uplink = uplink
        self._listen_on = listen_on
        self._meters = meters or SyncMeters(())
        self._service_cidrs: dict[ObjectKey, tuple[str, ...]] = {}
        self._node: Node | None = None
        self._policy: NodePortPolicy | None = None
        self._addresses: frozenset[LocalAddress] | None = None
        self._recalled = False
        self._synced = False
        self._open = False
        """The model gives out something."""
        self.complete = False
        """Whether that is all of what the API server said, and no memory."""
        self._setters: Mapping[Kind, Callable[[ObjectKey, ApiObject | None], None]] = {
            Kind.SERVICE: self._service,
            Kind.ENDPOINT_SLICE: self._slice,
            Kind.NODE: self._own_node,
            Kind.POD: self._pod,
            Kind.SERVICE_CIDR: self._service_cidr,
        }

    def on_change(
        self, kind: Kind, key: ObjectKey, old: ApiObject | None, new: ApiObject | None
    ) -> None:
        """An object appeared, changed or went."""
        self._count(kind, key, old, new)
        self._setters[kind](key, new)
        self._wake_if_due()

    def _count(
        self, kind: Kind, key: ObjectKey, old: ApiObject | None, new: ApiObject | None
    ) -> None:
        if kind is Kind.SERVICE:
            self._meters.service_changed(key)
        elif isinstance(new, EndpointSlice):
            # Without another content there is nothing to program, hence no latency.
            same = isinstance(old, EndpointSlice) and old[:-1] == new[:-1]
            service = ObjectKey(new.namespace, new.service)
            self._meters.slice_changed(new.address_type, service, 0.0 if same else new.triggered)
        elif isinstance(old, EndpointSlice):
            self._meters.slice_removed(old.address_type, ObjectKey(old.namespace, old.service))

    def on_recalled(self) -> None:
        """What was told is what an earlier process knew."""
        self._recalled = True
        self._try_open()

    def on_synced(self) -> None:
        """All required lists are known and have been told; said again once all of it is read."""
        self._synced = True
        self._try_open()

    def addresses_changed(self, addresses: frozenset[LocalAddress]) -> None:
        """The node's addresses, all of them."""
        self._addresses = addresses
        if self._open:
            self._set_addresses()
            self._wake_if_due()
        else:
            self._try_open()

    def _try_open(self) -> None:
        if self._addresses is None:
            return
        if self._synced:
            self._complete()
        elif self._recalled and not self._open:
            self._open = True
            self._set_addresses()
            self._model.mark_complete(prune=False)
            self._wake_if_due()

    def _complete(self) -> None:
        if not self.complete:
            self.complete = self._open = True
            # A Node that was recalled decides no more.
            self._policy = None
            self._set_addresses()
        # What an unreadable ServiceCIDR says decides about no Service.
        unreadable = {entry for entry in self._unreadable() if entry[0] != Kind.SERVICE_CIDR}
        if unreadable:
            texts = sorted(f"{kind} {key.namespace}/{key.name}" for kind, key in unreadable)
            _log.warning(
                "stale_entries_kept", unreadable=texts[:_NAMED], objects_unreadable=len(texts)
            )
        self._model.mark_complete(prune=not unreadable)
        self._wake_if_due()

    def _wake_if_due(self) -> None:
        if self._model.has_changes:
            self._wake()

    def _set_addresses(self) -> None:
        assert self._addresses is not None
        if self._policy is None:
            ips = node_ips(self._node, self._config.bind_address)
            self._policy = NodePortPolicy(
                self._config.node_port_addresses, ips, self._config.localhost_node_ports
            )
            self._model.set_node_ips(ips)
        devices = [(address.device, address.address) for address in self._addresses]
        self._model.set_node_addresses(node_addresses(devices, self._policy))
        self._listen_on(self._policy.listens(address for _, address in devices))
        self._tell_node()

    def _tell_node(self) -> None:
        """Before the gate opens, what the previous process told stays."""
        if not self._open or self._addresses is None:
            return
        cidrs = [cidr for cidrs in self._service_cidrs.values() for cidr in cidrs]
        facts = node_facts(self._config, self._node, self._addresses, cidrs, self._uplink)
        self._node_known(facts)

    def _service(self, key: ObjectKey, new: ApiObject | None) -> None:
        if isinstance(new, Service):
            self._model.set_service(new)
        else:
            self._model.remove_service(key)

    def _slice(self, key: ObjectKey, new: ApiObject | None) -> None:
        if isinstance(new, EndpointSlice):
            self._model.set_slice(new)
        else:
            self._model.remove_slice(key)

    def _pod(self, key: ObjectKey, new: ApiObject | None) -> None:
        if isinstance(new, Pod):
            self._model.set_pod(new)
        else:
            self._model.remove_pod(key)

    def _service_cidr(self, key: ObjectKey, new: ApiObject | None) -> None:
        if isinstance(new, ServiceCIDR):
            self._service_cidrs[key] = new.cidrs
        else:
            self._service_cidrs.pop(key, None)
        self._tell_node()

    def _own_node(self, key: ObjectKey, new: ApiObject | None) -> None:
        node = new if isinstance(new, Node) else None
        self._node_seen(node)
        if not self._synced:
            # What was recalled gives way to what the API server says.
            self._node = node
        if node is None:
            _log.info("node_deleted", node=key.name)
            return
        if self._node is not None and self._node.addresses != node.addresses:
            # As kube-proxy: what was derived from them at the start stays [K4].
            _log.info("node_addresses_changed", node=key.name)
        self._node = self._node or node
        if node.pod_cidrs and node.pod_cidrs != self._node.pod_cidrs:
            # kube-proxy ends here, to be restarted [K5]; the programs can be told.
            _log.info("pod_cidrs_changed", node=key.name, pod_cidrs=node.pod_cidrs)
            self._node = self._node._replace(pod_cidrs=node.pod_cidrs)
        self._model.set_node(node)
        self._tell_node()
