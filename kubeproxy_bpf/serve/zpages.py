# SPDX-License-Identifier: Apache-2.0
"""/flagz and /statusz: how the process was started and what it is, for people and for programs.

People get text. Programs name kind, group and version in the Accept header
(``application/json;v=v1beta1;g=config.k8s.io;as=Flagz``) and get an object of the API, as from
every component of Kubernetes. Called by ``pages``.
"""

from __future__ import annotations

import platform
import time
from datetime import datetime, timezone
from typing import Any, Callable, Iterable, Mapping, NamedTuple, Sequence

from aiohttp import web

from kubeproxy_bpf import __version__
from kubeproxy_bpf.serve.mux import Handler, json

COMPONENT = "kube-proxy"
GROUP = "config.k8s.io"
EMULATED = "1.36"
"""The kube-proxy whose behaviour is matched."""
_CURRENT, _DEPRECATED = "v1beta1", "v1alpha1"
_TEXT = ("text/plain", "text/*", "*/*")
_YAML = "application/yaml"
_STRUCTURED = ("application/json", _YAML)
_WARNING = (
    "This endpoint is not meant to be machine parseable, has no formatting compatibility "
    "guarantees and is for debugging purposes only."
)


class _Choice(NamedTuple):
    """A representation that the client takes and we have."""

    media: str
    version: str = _CURRENT


def flagz(values: Mapping[str, str]) -> Handler:
    """The flags and their effective values."""

    def text() -> str:
        return "".join(f"{name}={value}\n" for name, value in sorted(values.items()))

    return _page("Flagz", text, lambda: {"flags": dict(values)})


def statusz(paths: Sequence[str]) -> Handler:
    """What runs since when, and which pages there are. The clock starts now."""
    begin, started = time.monotonic(), datetime.now(timezone.utc)
    runtime = f"none (Python {platform.python_version()})"

    def up() -> int:
        return int(time.monotonic() - begin)

    def text() -> str:
        hours, seconds = divmod(up(), 3600)
        lines = (
            f"Started: {started:%a %b %e %H:%M:%S UTC %Y}",
            f"Up: {hours} hr {seconds // 60:02} min {seconds % 60:02} sec",
            f"Go version: {runtime}",
            f"Binary version: {__version__}",
            f"Emulation version: {EMULATED}",
            f"Paths: {' '.join(paths)}",
        )
        return "\n" + "".join(f"{line}\n" for line in lines)

    def fields() -> dict[str, Any]:
        return {
            "startTime": f"{started:%Y-%m-%dT%H:%M:%SZ}",
            "uptimeSeconds": up(),
            "goVersion": runtime,
            "binaryVersion": __version__,
            "emulationVersion": EMULATED,
            "paths": list(paths),
        }

    return _page("Statusz", text, fields)


def _page(kind: str, text: Callable[[], str], fields: Callable[[], Mapping[str, Any]]) -> Handler:
    name = kind.lower()

    async def answer(request: web.Request) -> web.Response:
        choice = _choose(request.headers.get("Accept", ""), kind)
        if choice is None:
            return _not_acceptable(kind)
        if choice.media not in _STRUCTURED:
            head = f"\n{COMPONENT} {name}\nWarning: {_WARNING}\n"
            return web.Response(text=head + text())
        body = {
            "kind": kind,
            "apiVersion": f"{GROUP}/{choice.version}",
            "metadata": {"name": COMPONENT},
            **fields(),
        }
        return _structured(body, choice, name)

    return answer


def _structured(body: Mapping[str, Any], choice: _Choice, name: str) -> web.Response:
    headers = {}
    if choice.version == _DEPRECATED:
        advice = f"This version of the {name} endpoint is deprecated. Please use a newer version."
        headers["Warning"] = f'299 - "{advice}"'
    if choice.media == _YAML:
        import yaml  # weighs more than this page is asked for

        return web.Response(
            text=yaml.safe_dump(body, sort_keys=False), content_type=_YAML, headers=headers
        )
    return json(body, headers=headers)


def _choose(accept: str, kind: str) -> _Choice | None:
    """The first of what the client prefers that we have; text where it names nothing."""
    if not accept.strip():
        return _Choice(_TEXT[0])
    for media, parameters in _clauses(accept):
        if media in _TEXT:
            return _Choice(media)
        version = parameters.get("v", "")
        wanted = parameters.get("g"), parameters.get("as")
        if media in _STRUCTURED and wanted == (GROUP, kind) and version in (_CURRENT, _DEPRECATED):
            return _Choice(media, version)
    return None


def _clauses(accept: str) -> Iterable[tuple[str, dict[str, str]]]:
    """(media type, parameters) of an Accept header, the preferred ones first."""
    clauses = []
    for clause in accept.split(","):
        media, *rest = (part.strip() for part in clause.split(";"))
        clauses.append((media.lower(), dict(part.partition("=")[::2] for part in rest)))
    return sorted(clauses, key=lambda clause: -_quality(clause[1].get("q", "1")))


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _not_acceptable(kind: str) -> web.Response:
    offered = ", ".join(
        f"{media};v={version};g={GROUP};as={kind}"
        for media in _STRUCTURED
        for version in (_CURRENT, _DEPRECATED)
    )
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f"only the following media types are accepted: text/plain, {offered}",
        "reason": "NotAcceptable",
        "code": 406,
    }
    return json(status, 406)
