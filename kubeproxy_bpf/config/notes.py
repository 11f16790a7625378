# SPDX-License-Identifier: Apache-2.0
"""What the operator should know of a configuration that holds: settings that change nothing.

Notes are made while flags and files are read and logged when the log is set up, one line each.
Called by ``load`` and ``cli``.
"""

from __future__ import annotations

from typing import Any, Iterator, Mapping, NamedTuple

from kubeproxy_bpf.config import defaults, gates
from kubeproxy_bpf.config.document import KubeProxyConfiguration, get_field
from kubeproxy_bpf.config.flags import ENVIRONMENT, FIELDS, KUBE_PROXY_FLAGS
from kubeproxy_bpf.config.known import WITHOUT_EFFECT


class Note(NamedTuple):
    """An event of the log."""

    event: str
    fields: dict[str, Any]
    warn: bool = True


def without_effect(
    document: KubeProxyConfiguration, given: Mapping[str, Any], environment: Mapping[str, str]
) -> list[Note]:
    """One note for each setting that was given, has another value than usual, and does nothing."""
    names = [
        *_flags(document, given),
        *_fields(document),
        *(
            (f"featureGates.{name}", why)
            for name, why in gates.WITHOUT_EFFECT.items()
            if document.feature_gates.get(name)
        ),
        *((name, why) for name, why in ENVIRONMENT.items() if environment.get(name)),
    ]
    return [Note("setting_without_effect", {"setting": name, "why": why}) for name, why in names]


def _flags(document: KubeProxyConfiguration, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for known in KUBE_PROXY_FLAGS:
        if known.status != WITHOUT_EFFECT:
            continue
        flag = known.flag
        if known.field:
            if _is_unusual(document, known.field):
                yield f"--{flag.name}, {known.field}", known.note
        elif given.get(flag.name, flag.default) != flag.default:
            yield f"--{flag.name}", known.note


def _fields(document: KubeProxyConfiguration) -> Iterator[tuple[str, str]]:
    for path, (status, why) in FIELDS.items():
        if status == WITHOUT_EFFECT and _is_unusual(document, path):
            yield path, why


def _is_unusual(document: KubeProxyConfiguration, path: str) -> bool:
    value = get_field(document, path)
    return bool(value != get_field(_USUAL, path) and value not in ([], ()))


def _usual() -> KubeProxyConfiguration:
    document = KubeProxyConfiguration()
    defaults.fill(document)
    defaults.resolve(document)
    return document


_USUAL = _usual()
