# SPDX-License-Identifier: Apache-2.0
"""Ends the process when its configuration file is written or renamed, as kube-proxy does.

The watch follows symbolic links to the file itself. A ConfigMap is updated by a swap of links above
it and never by a write: kube-proxy does not notice, so an edited ConfigMap counts when its pods are
started anew and not on all nodes at once. Here the swap is logged. ``app`` runs this as a task.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Iterator

import structlog

from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.errors import KubeProxyError

_log = structlog.get_logger(__name__)

_IN_MODIFY = 0x2
_IN_ATTRIB = 0x4
_IN_DELETE_SELF = 0x400
_IN_MOVE_SELF = 0x800
_IN_IGNORED = 0x8000
_EVENTS = _IN_MODIFY | _IN_ATTRIB | _IN_DELETE_SELF | _IN_MOVE_SELF


async def watch_config(config: Config) -> None:
    """Wait for a change of the files that the configuration was read from.

    Raises:
        KubeProxyError: one of them was written or renamed.
    """
    paths = [path for path in (config.config_path, config.own_config_path) if path]
    loop = asyncio.get_running_loop()
    changed: asyncio.Future[str] = loop.create_future()
    watch = _open(paths) if paths else None
    if watch is None:
        await changed
        return
    loop.add_reader(watch.fd, _take, watch, changed)
    try:
        path = await changed
    finally:
        loop.remove_reader(watch.fd)
        watch.close()
    raise KubeProxyError(f"the configuration file {path} was changed: ending, to be started anew")


def _open(paths: list[str]) -> Any:
    # Imported late: without a file none of it is needed.
    from pyroute2.inotify.inotify_fd import Inotify

    watch = Inotify(path=[])
    try:
        watch.bind()
        for path in paths:
            watch.register_path(path, _EVENTS)
    except (OSError, ValueError) as error:
        # The kernel has a limit on watches, which nodes do reach.
        _log.warning("config_not_watched", paths=paths, error=str(error))
        watch.close()
        return None
    return watch


def _take(watch: Any, changed: asyncio.Future[str]) -> None:
    """Read what is there; the reader is called only when something is."""
    for path, mask in _events(watch):
        if mask & (_IN_MODIFY | _IN_MOVE_SELF):
            if not changed.done():
                changed.set_result(path)
        elif mask & _IN_DELETE_SELF:
            _replaced(watch, path)


def _events(watch: Any) -> Iterator[tuple[str, int]]:
    for message in list(watch.get()):
        if message is not None and not message["mask"] & _IN_IGNORED:
            yield message["path"], message["mask"]


def _replaced(watch: Any, path: str) -> None:
    """The file is gone, and perhaps another stands in its place: that is the one to watch."""
    if not Path(path).exists():
        _log.warning("config_removed", path=path)
        return
    _log.warning("config_replaced", path=path, effect="from the next start of the process")
    watch.register_path(path, _EVENTS)
