# SPDX-License-Identifier: Apache-2.0
"""What must hold of our own settings. Pure: returns problems that name the flag, raises nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator, Mapping

NODE_PORTS = (30000, 32767)
"""The API server's default range."""
_ENTRIES_MAX = 1 << 24
_FLOWS_MIN = 1024
_CHOICES = {
    "bpf-takeover": ("clean", "report", "off"),
    "bpf-forward-accept": ("auto", "on", "off"),
    "bpf-pins": ("auto", "on", "off"),
    "bpf-xdp": ("off", "auto", "native", "generic"),
    "bpf-local-source": ("preserve", "masquerade"),
    "bpf-forwarding": ("snat", "dsr", "hybrid"),
    "bpf-algorithm": ("random", "maglev"),
}
_SIZES = (
    "bpf-max-frontends",
    "bpf-max-services",
    "bpf-max-slots",
    "bpf-max-backends",
    "bpf-max-affinity",
)


def validate(settings: Mapping[str, Any]) -> list[str]:
    """Return every problem of the settings, which go by the names of their flags."""
    return [*_words(settings), *_numbers(settings)]


def _words(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, choices in _CHOICES.items():
        if settings[name] not in choices:
            yield f'--{name}: "{settings[name]}" is none of {", ".join(choices)}'
    for name in ("bpf-state-path", "bpf-pin-path"):
        if not settings[name].startswith("/"):
            yield f'--{name}: "{settings[name]}" is not an absolute path'
    if (path := settings["bpf-snapshot-path"]) and not Path(path).is_absolute():
        yield f'--bpf-snapshot-path: "{path}" is not an absolute path'


def _numbers(settings: Mapping[str, Any]) -> Iterator[str]:
    if problem := _snat_ports_problem(*settings["bpf-snat-ports"]):
        yield f"--bpf-snat-ports: {problem}"
    flows = settings["bpf-max-flows"]
    if flows and not _FLOWS_MIN <= flows <= _ENTRIES_MAX:
        yield f"--bpf-max-flows: {flows} is not in {_FLOWS_MIN}..{_ENTRIES_MAX}"
    if settings["bpf-service-metrics"] < 0:
        yield "--bpf-service-metrics: must not be negative"
    if 0 < settings["bpf-audit-period"] < 1 or settings["bpf-audit-period"] < 0:
        yield "--bpf-audit-period: must be 0 or at least 1s"
    for name in _SIZES:
        if not 1 < settings[name] <= _ENTRIES_MAX:
            yield f"--{name}: {settings[name]} is not in 2..{_ENTRIES_MAX}"


def _snat_ports_problem(first: int, last: int) -> str:
    if not 1 <= first <= last <= 65535:
        return f"{first}-{last} is no range within 1-65535"
    if first <= NODE_PORTS[1] and last >= NODE_PORTS[0]:
        return f"{first}-{last} overlaps the node ports {NODE_PORTS[0]}-{NODE_PORTS[1]}"
    return ""
