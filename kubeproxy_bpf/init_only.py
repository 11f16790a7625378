# SPDX-License-Identifier: Apache-2.0
"""``--init-only``: what a proxy with fewer privileges cannot do for itself, done once before it.

Writes the sysctls of connection tracking and the reservation of ports, mounts a BPF file system
where pins are to be made, and lets the kernel's verifier see every program. Nothing stays loaded
or attached, and no rule of netfilter is touched. A later run needs /proc/sys no more (with
``--conntrack-max-per-core=0`` and zero time-outs, or the same values, nothing is written), but
CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and CAP_SYS_ADMIN for maps and programs by id and for the
sockets of pods. Unlike kube-proxy it does not ask for the Node: nothing here depends on it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import structlog

from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.dataplane.loader import load_datapath, load_packets
from kubeproxy_bpf.dataplane.pinning import pin_directory
from kubeproxy_bpf.dataplane.probe import probe_kernel, require
from kubeproxy_bpf.dataplane.settings import netns_cookie
from kubeproxy_bpf.host.sysctls import apply_conntrack
from kubeproxy_bpf.instance import object_path
from kubeproxy_bpf.program_settings import packet_entries, reservation_of, settings_of

_FLOWS = 1024
"""Enough for a table that nobody will use."""

_log = structlog.get_logger(__name__)


def run(config: Config) -> int:
    """Do it, and return the exit code.

    Raises:
        KubeProxyError: this node cannot run the proxy as configured.
        OSError: the kernel refuses programs or settings.
    """
    require(probe_kernel())
    apply_conntrack(config.conntrack_sysctls)
    reservation_of(config).reserve(*config.snat_ports)
    pin_directory(config.pins, Path(config.pin_path))
    programs = _verified(config)
    _log.info("initialised", programs=programs)
    return 0


def _verified(config: Config) -> int:
    """How many programs the kernel took."""
    settings = settings_of(config, netns_cookie())
    sizes = packet_entries(msgspec.structs.replace(config, max_flows=_FLOWS))
    with load_datapath(object_path("kube_proxy.bpf.o"), None, {}, settings) as sockets:
        packets = load_packets(object_path("packets.bpf.o"), None, sizes, settings, sockets)
        with packets:
            return len(sockets.programs) + len(packets.programs)
