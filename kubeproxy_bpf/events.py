# SPDX-License-Identifier: Apache-2.0
"""The events that the proxy emits, on its Node and on Services: their reasons and their words.

Reasons, actions and types are kube-proxy's; ``MapFull`` is our own. How they are sent, limited and
made a series of is the recorder's business. Built by ``status``; the methods are handed to those
whom something happens to.
"""

from __future__ import annotations

from typing import Callable

from kubeproxy_bpf.api.decode import Kind
from kubeproxy_bpf.api.objects import ObjectKey
from kubeproxy_bpf.api.recorder import NORMAL, WARNING, Happening, Recorder, Regarding
from kubeproxy_bpf.model.health import HealthCheck
from kubeproxy_bpf.model.types import ServicePortId
from kubeproxy_bpf.serve.listener import BindFailed

_START = "StartKubeProxy"
_SERVERS = {"health": "FailedToStartProxierHealthcheck", "metrics": "FailedToStartMetricServer"}
_KINDS = {"service": Kind.SERVICE, "pod": Kind.POD}


class Events:
    """One method for each kind of event."""

    def __init__(
        self,
        recorder: Recorder,
        node: str,
        uid_of: Callable[[Kind, ObjectKey], str] = lambda kind, key: "",
    ) -> None:
        """``uid_of`` finds the UID of a Service or Pod; without it users do not see the event
        where they describe the object."""
        self._recorder = recorder
        self._node = node
        self.uid_of = uid_of

    def started(self, mode: str) -> None:
        """The proxy begins to serve."""
        self._on_node(NORMAL, "Starting", "")
        if mode == "ipvs":
            note = "mode ipvs is deprecated in kube-proxy; BPF programs serve in its place here"
            self._on_node(WARNING, "IPVSDeprecation", note)

    def server_failed(self, failure: BindFailed) -> None:
        """The health or the metrics server has no port, which ends the process."""
        self._on_node(WARNING, _SERVERS[failure.what], str(failure))

    def health_check_failed(self, check: HealthCheck, error: OSError) -> None:
        """The port for a load balancer's health check cannot be had."""
        service = f"{check.service.namespace}/{check.service.name}"
        note = f'node {self._node} failed to start healthcheck "{service}" on port {check.port}'
        self._on_object(
            Kind.SERVICE,
            check.service,
            "FailedToStartServiceHealthcheck",
            "Listen",
            f"{note}: {error}",
        )

    def port_unfit(self, port: ServicePortId, full_map: str) -> None:
        """A service port, or a host port, is not served here since a map is full."""
        name = f" {port.port_name}" if port.port_name else ""
        note = f"node {self._node} does not serve port{name} over IPv{port.family}"
        kind = _KINDS[port.source]
        key = ObjectKey(port.namespace, port.name)
        self._on_object(
            kind,
            key,
            "MapFull",
            f"Program{kind}",
            f"{note}: the BPF map {full_map} is full",
        )

    def _on_node(self, kind: str, reason: str, note: str) -> None:
        # kube-proxy names its Node without a UID, and so do those who look for its events.
        self._recorder.record(Happening(Regarding("Node", self._node), kind, reason, _START, note))

    def _on_object(self, kind: Kind, key: ObjectKey, reason: str, action: str, note: str) -> None:
        regarding = Regarding(str(kind), key.name, key.namespace, self.uid_of(kind, key))
        self._recorder.record(Happening(regarding, WARNING, reason, action, note))
