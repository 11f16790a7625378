# SPDX-License-Identifier: Apache-2.0
"""The debug pages: what runs at this moment, and how much is logged. Only with ``--profiling``.

Go's profiles do not exist here: /debug/pprof/ lists what does, and any other profile is unknown.
Called by ``pages``.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from typing import Any, Callable, Iterable, Iterator

import structlog
from aiohttp import web

from kubeproxy_bpf import log
from kubeproxy_bpf.serve.mux import Handler, text

_PPROF = "/debug/pprof/"
_FLAGS = "/debug/flags/"
_VERBOSITY_MAX = 2**31 - 1
_DIGITS = 20
_SHOWN = 100
_log = structlog.get_logger(__name__)


def pages() -> dict[str, Handler]:
    """The pages by their exact paths."""
    _log.info("profiling_enabled", profiles=sorted(_PROFILES))
    return {
        _PPROF.rstrip("/"): _to_pprof,
        _FLAGS.rstrip("/"): _flags,
        f"{_FLAGS}v": _verbosity,
    }


def prefixes() -> dict[str, Handler]:
    """The pages that answer for all paths below theirs."""
    return {_PPROF: _pprof, _FLAGS: _flags}


async def _to_pprof(_request: web.Request) -> web.Response:
    return web.Response(status=302, headers={"Location": _PPROF})


async def _pprof(request: web.Request) -> web.Response:
    name = request.path.removeprefix(_PPROF)
    if not name:
        return _index(_PPROF, "profiles", _PROFILES)
    if name not in _PROFILES:
        return text("Unknown profile\n", 404)
    return text("".join(_PROFILES[name]()))


async def _flags(_request: web.Request) -> web.Response:
    return _index(_FLAGS, "flags that can be set", ("v",))


async def _verbosity(request: web.Request) -> web.Response:
    """PUT of a number, as for every component of Kubernetes."""
    if request.method != "PUT":
        return text("unsupported http method\n", 406)
    wanted = (await request.read()).decode(errors="replace")
    number = wanted.isascii() and wanted.isdigit() and len(wanted) <= _DIGITS
    if not number or int(wanted) > _VERBOSITY_MAX:
        shown = wanted[:_SHOWN]
        return text(f"failed set klog.logging.verbosity {shown}: not an unsigned integer\n", 400)
    log.set_verbosity(int(wanted))
    _log.info("verbosity_set", verbosity=int(wanted))
    return text(f"successfully set klog.logging.verbosity to {wanted}\n")


def _index(path: str, what: str, names: Iterable[str]) -> web.Response:
    rows = "".join(f'<li><a href="{path}{name}">{name}</a></li>\n' for name in sorted(names))
    title = path.rstrip("/")
    page = f"<html><head><title>{title}</title></head><body>\n{title}: {what}\n<ul>\n{rows}</ul>\n"
    return web.Response(text=f"{page}</body></html>\n", content_type="text/html")


def _tasks() -> Iterator[str]:
    """Every task and where it waits."""
    tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    yield f"{len(tasks)} tasks\n"
    for task in tasks:
        yield f"\n{task.get_name()}\n"
        yield from _awaited(task.get_coro())


def _awaited(coroutine: Any) -> Iterator[str]:
    """The frames from a task's own coroutine to the innermost that it awaits."""
    while frame := getattr(coroutine, "cr_frame", None):
        code = frame.f_code
        yield f'  File "{code.co_filename}", line {frame.f_lineno}, in {code.co_qualname}\n'
        coroutine = coroutine.cr_await


def _threads() -> Iterator[str]:
    """Every thread and what it does."""
    frames = sys._current_frames()
    yield f"{len(frames)} threads\n"
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        yield f"\n{thread.name}\n"
        yield from traceback.format_stack(frame) if frame else ()


_PROFILES: dict[str, Callable[[], Iterator[str]]] = {"tasks": _tasks, "threads": _threads}
