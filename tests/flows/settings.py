# SPDX-License-Identifier: Apache-2.0
"""What the options of a row of packets.py are in the terms of the programs."""

from __future__ import annotations

from typing import Sequence

from kubeproxy_bpf.dataplane.settings import ConfigFlags

from .packets import DETECTED, Option

DETECTOR = ConfigFlags.POD_SHORTCUT_IPV4 | ConfigFlags.POD_SHORTCUT_IPV6
_FLAGS = {
    Option.PRESERVE_SOURCE: ConfigFlags.PRESERVE_SOURCE,
    Option.MASQUERADE_ALL: ConfigFlags.MASQUERADE_ALL,
    Option.NO_POD_CIDR: ConfigFlags.DETECT_BY_CIDR,
    Option.REDIRECT_PEER: ConfigFlags.REDIRECT_PEER,
    Option.DSR: ConfigFlags.DSR_TCP | ConfigFlags.DSR_UDP,
}


def config_flags(options: Sequence[Option]) -> int:
    """ConfigFlags of a row."""
    flags = 0 if Option.NO_DETECTOR in options else DETECTOR
    for option in options:
        flags |= _FLAGS.get(option, 0)
    return int(flags)


def detected_networks(options: Sequence[Option]) -> Sequence[str]:
    """What the local detector knows."""
    nothing = {Option.NO_DETECTOR, Option.NO_POD_CIDR}
    return () if nothing.intersection(options) else DETECTED
