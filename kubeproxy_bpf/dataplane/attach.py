# SPDX-License-Identifier: Apache-2.0
"""Attaches the socket hooks to a cgroup, keeps them over restarts, and tells what is attached.

Each hook is a link, pinned as ``<links_dir>/<program>``: attached without this process. A restart
swaps the program inside the link, so that there is no moment without one. A link whose cgroup is
gone, or is another, is replaced: the new one works before the old one ends; one whose program is
no more is detached. Where nothing can be pinned, ``unlinked`` does the same. What remembers sockets
is attached after what forgets them. That the hooks really run is for ``canary`` to prove. Called by
the composition root, in a thread.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Callable, Iterable, Iterator, Mapping, NamedTuple

import structlog

from kubeproxy_bpf.dataplane.attachments import Attachment, LinkTable, at_cgroup
from kubeproxy_bpf.dataplane.mounts import ensure_bpffs
from kubeproxy_bpf.dataplane.owned import Owned
from kubeproxy_bpf.dataplane.unlinked import attach_to_cgroup
from kubeproxy_bpf.errors import UnsupportedKernel
from kubeproxy_bpf.libbpf import (
    AttachType,
    LibbpfError,
    Link,
    ObjectProgram,
    prog_query,
)

_log = structlog.get_logger(__name__)

DEVICE_PIN = "dev-"
"""How the names of links to devices begin, which are pinned beside ours (``devices``)."""

# A socket that connects between two attachments must find the later hooks of its life in place.
_ORDER = (
    "kpb_release",
    "kpb_peername4",
    "kpb_peername6",
    "kpb_recvmsg4",
    "kpb_recvmsg6",
    "kpb_post_bind4",
    "kpb_post_bind6",
    "kpb_sendmsg4",
    "kpb_sendmsg6",
    "kpb_connect4",
    "kpb_connect6",
)


def attach(
    programs: Mapping[str, ObjectProgram],
    cgroup: Path,
    links_dir: Path | None = None,
    owned: Owned | None = None,
) -> dict[str, Link]:
    """Attach all programs to a cgroup and its descendants.

    The caller holds the links; without ``links_dir`` closing them detaches. After a failure
    nothing is attached to a hook that had nothing of ours before. What ``owned`` recognises as of
    an earlier process, and stands at the cgroup beside these, ends.
    """
    if links_dir:
        ensure_bpffs(links_dir)
    links: dict[str, Link] = {}

    def attach_one(name: str, hook: _Hook, undo: ExitStack) -> None:
        pin = links_dir / name if links_dir else None
        links[name] = _attach_one(hook, pin, undo)

    _attach_all(programs, cgroup, owned, attach_one)
    if links_dir:
        _detach_others(links_dir, links)
    return links


def attach_unlinked(programs: Mapping[str, ObjectProgram], cgroup: Path, owned: Owned) -> None:
    """Attach all programs without links: they stay when this process ends.

    Otherwise as ``attach``.
    """

    def attach_one(name: str, hook: _Hook, undo: ExitStack) -> None:
        with _refusal_named(name):
            attach_to_cgroup(hook.program, cgroup, hook.cgroup_fd, hook.before, undo)

    _attach_all(programs, cgroup, owned, attach_one)


class _Hook(NamedTuple):
    """A program, where it goes, and what of ours is there already."""

    program: ObjectProgram
    cgroup_fd: int
    before: list[Attachment]


def _attach_all(
    programs: Mapping[str, ObjectProgram],
    cgroup: Path,
    owned: Owned | None,
    attach_one: Callable[[str, _Hook, ExitStack], None],
) -> None:
    cgroup_fd = _open(cgroup)
    table = LinkTable(owned) if owned else None

    def there(program: ObjectProgram) -> list[Attachment]:
        if owned is None or table is None:
            return []
        hook = AttachType(program.expected_attach_type)
        return at_cgroup(cgroup, cgroup_fd, hook, owned, table)

    try:
        with ExitStack() as undo:
            for name in in_order(programs):
                program = programs[name]
                attach_one(name, _Hook(program, cgroup_fd, there(program)), undo)
                # At once: two programs at one hook translate twice, and the second forgets.
                current = program.info().id
                _end_old(each for each in there(program) if each.program_id != current)
            undo.pop_all()
    finally:
        os.close(cgroup_fd)


def detach(links_dir: Path) -> int:
    """Detach all that is pinned in a directory, and return how many links that were."""
    count = 0
    for path in _pins(links_dir):
        _end(path)
        count += 1
    return count


def effective(programs: Mapping[str, ObjectProgram], cgroup: Path) -> dict[str, tuple[int, ...]]:
    """Return the ids of all programs that run at each hook for sockets of a cgroup, in order."""
    cgroup_fd = _open(cgroup)
    try:
        return {
            name: tuple(prog_query(cgroup_fd, program.expected_attach_type, effective=True))
            for name, program in programs.items()
        }
    finally:
        os.close(cgroup_fd)


def inactive(programs: Mapping[str, ObjectProgram], cgroup: Path) -> list[str]:
    """Return the names of our programs that do not run for sockets of a cgroup."""
    running = effective(programs, cgroup)
    return [name for name, program in programs.items() if program.info().id not in running[name]]


def in_order(names: Iterable[str]) -> list[str]:
    """Programs in the order in which they are to be attached."""
    return sorted(names, key=_place)


def close_all(links: Iterable[Link]) -> None:
    """Close links; those that are not pinned detach."""
    for link in links:
        link.close()


def _place(name: str) -> int:
    return _ORDER.index(name) if name in _ORDER else -1


@contextmanager
def _refusal_named(name: str) -> Iterator[None]:
    try:
        yield
    except LibbpfError as error:
        if error.errno in (errno.EINVAL, errno.EPERM):
            needs = f"the kernel refuses to attach it to the cgroup ({error})"
            raise UnsupportedKernel(f"socket hook {name}", needs) from error
        raise


def _attach_one(hook: _Hook, pin: Path | None, undo: ExitStack) -> Link:
    adopted = _adopt(pin, hook.cgroup_fd) if pin else None
    if adopted:
        undo.callback(adopted.close)
        adopted.update(hook.program)
        return adopted
    with _refusal_named(hook.program.name):
        link = hook.program.attach_cgroup(hook.cgroup_fd)
    undo.callback(link.close)
    if not hook.before:
        undo.callback(link.detach)
    if pin:
        _replace_pin(link, pin)
        if not hook.before:
            undo.callback(pin.unlink)
    return link


def _end_old(attachments: Iterable[Attachment]) -> None:
    """What refuses to end is no reason to stop; ``inventory.end_strays`` tries it again."""
    for each in attachments:
        try:
            each.end()
        except OSError as error:
            _log.warning("old_program_kept", attachment=str(each), error=str(error))


def _detach_others(links_dir: Path, links: Mapping[str, Link]) -> None:
    """End what another version of us, or a crash while pinning, left attached."""
    for path in _pins(links_dir):
        if path.name in links:
            continue
        try:
            _end(path)
        except OSError as error:
            _log.warning("old_link_kept", link=str(path), error=str(error))
        else:
            _log.info("old_link_detached", link=str(path))


def _end(pin: Path) -> None:
    with Link.open_pinned(pin) as link:
        link.detach()
    pin.unlink()


def _adopt(pin: Path, cgroup_fd: int) -> Link | None:
    """Open a pinned link if it is attached to this very cgroup."""
    if not pin.exists():
        return None
    link = Link.open_pinned(pin)
    # The id of a cgroup is the inode of its directory; 0 when the link's cgroup is gone.
    if link.info().cgroup_id == os.fstat(cgroup_fd).st_ino:
        return link
    link.close()
    return None


def _replace_pin(link: Link, pin: Path) -> None:
    """Pin a link in place of another, which ends with its last holder."""
    fresh = pin.with_name(f"new-{pin.name}")
    fresh.unlink(missing_ok=True)  # left by a crash at this point
    link.pin(fresh)
    fresh.rename(pin)


def _pins(links_dir: Path) -> list[Path]:
    """The links to cgroups."""
    if not links_dir.is_dir():
        return []
    of_devices = (DEVICE_PIN, f"new-{DEVICE_PIN}")
    return sorted(path for path in links_dir.iterdir() if not path.name.startswith(of_devices))


def _open(cgroup: Path) -> int:
    try:
        return os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        needs = f"{cgroup} cannot be opened ({error.strerror}); see --bpf-cgroup-root"
        raise UnsupportedKernel("cgroup v2", needs) from error
