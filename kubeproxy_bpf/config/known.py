# SPDX-License-Identifier: Apache-2.0
"""What is known of a flag of kube-proxy beside how it is parsed: its field and what becomes of it.

The rows stand in ``flags_process`` and ``flags_proxy``, gathered by ``flags``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kubeproxy_bpf.config.pflag import Flag, FlagType

IMPLEMENTED = "implemented"
WITHOUT_EFFECT = "accepted without effect"
REFUSED = "refused"


class KnownFlag(NamedTuple):
    """A flag of kube-proxy and what becomes of it."""

    flag: Flag
    field: str
    """Path in KubeProxyConfiguration; empty: it has none."""
    beside: bool
    """Whether it counts beside --config too."""
    status: str
    note: str
    """Why it has no effect, or what is worth knowing."""


def known(
    name: str,
    kind: FlagType,
    default: Any,
    field: str,
    help: str,
    *,
    beside: bool = False,
    no_effect: str = "",
    note: str = "",
    short: str = "",
    deprecated: str = "",
) -> KnownFlag:
    flag = Flag(name, kind, default, help, short, deprecated)
    status = WITHOUT_EFFECT if no_effect else IMPLEMENTED
    return KnownFlag(flag, field, beside, status, no_effect or note)
