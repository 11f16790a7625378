# SPDX-License-Identifier: Apache-2.0
"""The socket programs at one cgroup, and their return when somebody else removed them.

``attach`` says how they get there; this holds the links, and asks the kernel whether the programs
still run. One that a foreign tool detached is attached anew, its pin with it (``pins``). One that
the kernel refuses, since a program of others stands there exclusively, is told once and tried again
at each look. Owned by ``instance``, called in threads, never in two at once.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Iterator, Mapping

import structlog

from kubeproxy_bpf.dataplane import attach
from kubeproxy_bpf.dataplane.owned import Owned
from kubeproxy_bpf.libbpf import AttachFlag, AttachType, Link, ObjectProgram, prog_attach

_log = structlog.get_logger(__name__)


class SocketHooks:
    """All programs of the sockets; with links if there is a directory for them."""

    def __init__(
        self,
        programs: Mapping[str, ObjectProgram],
        cgroup: Path,
        links_dir: Path | None,
        owned: Owned | None,
    ) -> None:
        self._programs = programs
        self._cgroup = cgroup
        self._links_dir = links_dir
        self._owned = owned
        self._links: dict[str, Link] = {}
        self._refused: dict[str, str] = {}

    def attach(self) -> None:
        """Attach them, in place of those of an earlier process."""
        if self._links_dir is not None:
            self._links = attach.attach(self._programs, self._cgroup, self._links_dir, self._owned)
            return
        assert self._owned is not None, "without pins programs are found by their owner"
        attach.attach_unlinked(self._programs, self._cgroup, self._owned)

    def put_back(self) -> list[str]:
        """Attach those that do not run for the sockets of the cgroup; return their names.

        Raises:
            UnsupportedKernel: the cgroup is gone.
        """
        done = []
        refused: dict[str, str] = {}
        for name in attach.in_order(attach.inactive(self._programs, self._cgroup)):
            try:
                self._put_back(name)
            except OSError as error:
                refused[name] = _reason(error)
            else:
                done.append(name)
                _log.error("hook_put_back", hook=name, cgroup=str(self._cgroup))
        for name, reason in refused.items():
            if self._refused.get(name) != reason:
                _log.error("hook_refused", hook=name, cgroup=str(self._cgroup), error=reason)
        self._refused = refused
        return done

    def pins(self) -> Iterator[tuple[Path, Link]]:
        """Where each link belongs."""
        if self._links_dir is not None:
            yield from ((self._links_dir / name, link) for name, link in self._links.items())

    def close(self) -> None:
        """Let go; what is pinned, and what has no link, stays attached."""
        attach.close_all(self._links.values())

    def _put_back(self, name: str) -> None:
        program = self._programs[name]
        cgroup_fd = os.open(self._cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if self._links_dir is None:
                hook = AttachType(program.expected_attach_type)
                prog_attach(program.fd, cgroup_fd, hook, AttachFlag.ALLOW_MULTI)
                return
            old = self._links.get(name)
            # The id of a cgroup is the inode of its directory; that of a link without one is 0.
            if old is not None and old.info().cgroup_id == os.fstat(cgroup_fd).st_ino:
                old.update(program)  # somebody put another program into it
                return
            self._links[name] = program.attach_cgroup(cgroup_fd)
            if old is not None:
                old.close()
        finally:
            os.close(cgroup_fd)


def _reason(error: OSError) -> str:
    if error.errno == errno.EPERM:
        return f"{error}: a program that allows no others beside it may stand there, or above"
    return str(error)
