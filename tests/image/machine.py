# SPDX-License-Identifier: Apache-2.0
"""How this machine reaches its package registries, handed on to a chroot.

The sources of apt are copied as they are; of pip's settings those that name local files are shown
to the chroot under another path. No host name stands in here or anywhere in the project. Used by
``builder``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from layers import mount

_SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")
_LOCAL = re.compile(r"(?:(?<=file://)|(?<!\S))/[^\s]+")


def debian_sources(suite: str) -> Path | None:
    """The file with this machine's sources of a Debian release, if it has them."""
    for path in _SOURCES:
        if path.exists() and suite in path.read_text():
            return path
    return None


@dataclass(frozen=True)
class Registries:
    """Settings of pip and of proxies as environment variables."""

    variables: dict[str, str]

    @classmethod
    def of_this_machine(cls) -> Registries:
        listed = subprocess.check_output([sys.executable, "-m", "pip", "config", "list"], text=True)
        variables = {}
        for line in listed.splitlines():
            name, _, value = line.partition("=")
            option = name.rpartition(".")[2].upper().replace("-", "_")
            variables[f"PIP_{option}"] = value.strip("'\"").replace("\\n", " ")
        for name in (*_PROXIES, *map(str.upper, _PROXIES)):
            if name in os.environ:
                variables[name] = os.environ[name]
        return cls(variables)

    def enter(self, root: Path) -> dict[str, str]:
        """Show the chroot what the settings name; returns the settings as they hold inside.

        The root's /run must be a mount that goes away with the step.
        """
        resolver = root / "etc" / "resolv.conf"
        if not resolver.exists():
            shutil.copy("/etc/resolv.conf", resolver)
        return {name: _LOCAL.sub(_Shown(root), text) for name, text in self.variables.items()}


class _Shown:
    """Binds the top directory of a local path into a chroot's /run, and gives the path's new name.

    The whole of it, since indexes hold links to what lies beside them.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self, found: re.Match[str]) -> str:
        top = Path("/", Path(found.group()).parts[1])
        target = self._root / "run" / "host" / top.name
        if not target.exists():
            target.mkdir(parents=True)
            mount("--rbind", "-o", "ro", str(top.resolve()), str(target))
        return f"/run/host{found.group()}"
