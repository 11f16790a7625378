# SPDX-License-Identifier: Apache-2.0
"""The configuration loaders of kubernetes_asyncio, without its 1,200 model modules.

Importing any part of that package runs its ``__init__`` modules, which import every API model:
0.3 s of CPU and 35 MB that nothing here uses. The loaders need two names of them only, in
signatures that we never reach. So they are imported once beneath two stand-in packages, which are
taken away again at once: anybody who imports kubernetes_asyncio later gets the real one. Where the
package no longer has this layout, the normal import serves. Called by ``api.credentials``.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Callable, NamedTuple

_PACKAGE = "kubernetes_asyncio"


class Plumbing(NamedTuple):
    load_kube_config: Callable[..., Any]
    """Coroutine function; sets attributes on ``client_configuration``, returns the loader."""
    load_incluster_config: Callable[..., None]
    error: type[Exception]
    light: bool
    """The models were not imported on our account."""


def import_plumbing() -> Plumbing:
    if _PACKAGE in sys.modules:
        return _plumbing(light=False)
    try:
        return _beneath_stand_ins()
    except (ImportError, AttributeError):
        return _plumbing(light=False)


def _plumbing(light: bool) -> Plumbing:
    config = importlib.import_module(f"{_PACKAGE}.config")
    return Plumbing(
        config.load_kube_config, config.load_incluster_config, config.ConfigException, light
    )


def _beneath_stand_ins() -> Plumbing:
    spec = find_spec(_PACKAGE)
    if spec is None:
        raise ImportError(_PACKAGE)
    package = ModuleType(_PACKAGE)
    package.__path__ = list(spec.submodule_search_locations or ())
    client = ModuleType(f"{_PACKAGE}.client")
    # An empty path: whatever else the loaders might want from the client package is an ImportError,
    # hence the normal import, instead of a half-working module.
    client.__path__ = []
    setattr(client, "ApiClient", object)
    setattr(client, "Configuration", object)
    sys.modules[package.__name__] = package
    sys.modules[client.__name__] = client
    try:
        return _plumbing(light=True)
    finally:
        for name in [n for n in sys.modules if n == _PACKAGE or n.startswith(f"{_PACKAGE}.")]:
            del sys.modules[name]
