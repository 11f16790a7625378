# SPDX-License-Identifier: Apache-2.0
"""The pages beside the metrics: which mode, which configuration, and what the debug pages need.

/flagz and /statusz are in ``zpages``, those that need ``--profiling`` in ``debug``. No page holds a
secret: what the configuration names is paths. Called by ``status``; served by ``metrics``.
"""

from __future__ import annotations

from typing import Mapping

from aiohttp import web

from kubeproxy_bpf.config.gates import enabled
from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.serve import debug, zpages
from kubeproxy_bpf.serve.mux import Handler, json, text

_DOCUMENT = {
    "kind": "KubeProxyConfiguration",
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
}
METRICS_PATHS = ("/healthz", "/metrics")


def pages(config: Config) -> dict[str, Handler]:
    """The pages by their exact paths."""

    async def proxy_mode(_request: web.Request) -> web.Response:
        # Monitoring and conformance tests know kube-proxy's modes only, and choose by them what
        # to look at: it is the one that was asked for, though BPF programs serve.
        return text(config.mode)

    async def configz(_request: web.Request) -> web.Response:
        return json({"kubeproxy.config.k8s.io": {**_DOCUMENT, **config.document}})

    found: dict[str, Handler] = {"/proxyMode": proxy_mode, "/configz": configz}
    gates = config.feature_gates
    if enabled(gates, "ComponentFlagz"):
        found["/flagz"] = zpages.flagz(config.flag_values)
    if enabled(gates, "ComponentStatusz"):
        listed = sorted({*found, *METRICS_PATHS})
        found["/statusz"] = zpages.statusz(listed)
    return found | (debug.pages() if config.profiling else {})


def prefixes(config: Config) -> Mapping[str, Handler]:
    """The pages that answer for all paths below theirs."""
    return debug.prefixes() if config.profiling else {}
