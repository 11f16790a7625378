# SPDX-License-Identifier: Apache-2.0
"""A file to a KubeProxyConfiguration: strictly first, then leniently, as kube-proxy does.

What only a strict reader minds (unknown fields, fields given twice) is returned to be logged; what
no reader can use is an error, each with its path. Called by ``load``.
"""

from __future__ import annotations

from typing import Any, Iterator, NamedTuple, get_args

import msgspec

from kubeproxy_bpf.config.document import (
    API_VERSION,
    KIND,
    KubeProxyConfiguration,
    Section,
    from_plain,
)
from kubeproxy_bpf.config.text import read_mapping
from kubeproxy_bpf.errors import ConfigError


class Decoded(NamedTuple):
    """The document, and what was overlooked in it."""

    document: KubeProxyConfiguration
    overlooked: list[str]


def read_document(path: str) -> Decoded:
    """Read a KubeProxyConfiguration.

    Raises:
        ConfigError: with every problem of the file.
    """
    mapping = read_mapping(path)
    content = mapping.content
    problems = [
        f'--config {path}: {name}: must be "{wanted}"'
        for name, wanted in (("apiVersion", API_VERSION), ("kind", KIND))
        if content.get(name) != wanted
    ]
    document = KubeProxyConfiguration()
    for field in msgspec.structs.fields(KubeProxyConfiguration):
        if field.encode_name not in content:
            continue
        try:
            value = from_plain(content[field.encode_name], field.type)
        except msgspec.ValidationError as error:
            problems.append(f"--config {path}: {_located(field.encode_name, str(error))}")
            continue
        setattr(document, field.name, value)
    if problems:
        raise ConfigError(problems)
    unknown = (f'unknown field "{name}"' for name in _unknown(content, KubeProxyConfiguration, ""))
    return Decoded(document, [*mapping.duplicates, *unknown])


def _located(field: str, error: str) -> str:
    """``$`` is the field that was converted."""
    text, _, where = error.partition(" - at `$")
    return f"{field}{where.rstrip('`')}: {text}"


def _unknown(content: Any, kind: Any, path: str) -> Iterator[str]:
    if isinstance(content, list):
        for position, item in enumerate(content):
            yield from _unknown(item, kind, f"{path.rstrip('.')}[{position}].")
        return
    known = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    for name, value in content.items():
        if name not in known:
            yield f"{path}{name}"
        elif section := _section(known[name]):
            yield from _unknown(value, section, f"{path}{name}.")


def _section(kind: Any) -> Any:
    """The struct in a type, or in a list of it."""
    for candidate in (kind, *get_args(kind)):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None
