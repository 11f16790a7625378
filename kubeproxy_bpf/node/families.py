# SPDX-License-Identifier: Apache-2.0
"""Which IP families this node speaks [I3, I4]. Reads /proc once at the start; called by ``app``."""

from __future__ import annotations

from pathlib import Path

from kubeproxy_bpf.errors import UnsupportedKernel
from kubeproxy_bpf.model.types import Family


def supported_families(
    bind_address: str = "0.0.0.0", proc: Path = Path("/proc")
) -> tuple[Family, ...]:
    """IPv4 always, IPv6 where the kernel has it and it is not switched off.

    Raises:
        UnsupportedKernel: ``bind_address`` makes IPv6 the primary family and the node has none.
    """
    if _has_ipv6(proc):
        return Family.IPV4, Family.IPV6
    if ":" in bind_address:
        raise UnsupportedKernel("IPv6", f"bindAddress {bind_address} asks for it")
    return (Family.IPV4,)


def _has_ipv6(proc: Path) -> bool:
    switch = proc / "sys/net/ipv6/conf/all/disable_ipv6"
    try:
        switched_off = switch.read_text().strip() == "1"
    except OSError:
        switched_off = False
    return (proc / "net/if_inet6").exists() and not switched_off
