# SPDX-License-Identifier: Apache-2.0
"""Whether a complete new state of a resource is believed, against what is known already.

A list is true when it was made, by the server that made it. Two kinds are doubted, because they
would take endpoints away that live: one that is older than what we have seen (a replica that lags
behind, or a backup that was restored), and one that lacks a good part of what we know. Doubt costs
another list, and lasts only while each lacks something else: see docs/decisions/0009. Pure but for
the clock that is handed in; asked by ``api.intake``.
"""

from __future__ import annotations

from typing import Callable, Collection, Mapping, NamedTuple

import structlog

from kubeproxy_bpf.api.objects import ObjectKey
from kubeproxy_bpf.errors import KubeProxyError

log = structlog.get_logger("api")

Versions = Mapping[ObjectKey, str]


class Doubt(KubeProxyError):
    """A complete state that is not believed yet; what was known stays."""


class Older(Doubt):
    """The whole state is older than what was seen before."""

    def __init__(self, known: str, got: str) -> None:
        super().__init__(known, got)
        self.known = known
        self.got = got

    def __str__(self) -> str:
        got, known = _shown(self.got), _shown(self.known)
        return f"a list as of resourceVersion {got} is older than {known}, already seen"


class Shrunken(Doubt):
    """A good part of what is known is missing, for the first time."""

    def __init__(self, missing: int, known: int) -> None:
        super().__init__(missing, known)
        self.missing = missing
        self.known = known

    def __str__(self) -> str:
        return f"{self.missing} of {self.known} objects are missing from a list"


class Snapshot(NamedTuple):
    """A state as of one moment: the version of the whole, and of each object."""

    version: str
    objects: Versions
    unsure: Collection[ObjectKey] | None = ()
    """Objects that are there but could not be read; None: some have no name even."""


class Plausibility:
    """Remembers the doubts about one resource, from list to list."""

    def __init__(
        self,
        monotonic: Callable[[], float],
        *,
        expected: Collection[ObjectKey] = (),
        older_s: float = 60.0,
        older_lists: int = 3,
        missing_share: float = 0.1,
    ) -> None:
        """Older states are believed after so many of them in so long a time; what is missing, if
        it is more than its share, when the next list lacks it too. ``expected``: what an earlier
        process knew, for the first state alone."""
        self._monotonic = monotonic
        self._expected = frozenset(expected)
        self._older_s = older_s
        self._older_lists = older_lists
        self._missing_share = missing_share
        self.doubts = 0
        """Lists refused in a row."""
        self._older = 0
        self._older_since = 0.0
        self._missing: Collection[ObjectKey] = ()

    def check(self, known: Snapshot, got: Snapshot) -> str:
        """Raise a Doubt, or forget all doubts: ``got`` takes the place of ``known``.

        Return the version from which on changes are news.
        """
        if older(got.version, known.version) and not _takes_back(known, got):
            got = got._replace(version=known.version)
        try:
            self._check_age(known, got)
            self._check_missing(known, got)
        except Doubt:
            self.doubts += 1
            raise
        self.doubts = self._older = 0
        self._missing = ()
        self._expected = frozenset()
        return got.version

    def _check_age(self, known: Snapshot, got: Snapshot) -> None:
        if not older(got.version, known.version):
            self._older = 0
            return
        if not self._older:
            self._older_since = self._monotonic()
        self._older += 1
        waited_s = self._monotonic() - self._older_since
        proved = _other_history(known, got)
        if not proved and (self._older < self._older_lists or waited_s < self._older_s):
            raise Older(known.version, got.version)
        log.warning(
            "history_replaced", known=_shown(known.version), got=_shown(got.version), proved=proved
        )

    def _check_missing(self, known: Snapshot, got: Snapshot) -> None:
        if got.unsure is None:
            return
        before = self._expected or known.objects.keys()
        missing = before - got.objects.keys() - set(got.unsure)
        if len(missing.difference(self._missing)) > len(before) * self._missing_share:
            self._missing = missing
            raise Shrunken(len(missing), len(before))


def _takes_back(known: Snapshot, got: Snapshot) -> bool:
    """Whether anything in an older state is as it once was: gone, back again, or less new.

    Nothing is where a cache counts its objects' versions alone, which are behind those of bookmarks
    and deletions.
    """
    if got.unsure is not None and known.objects.keys() - got.objects.keys() - set(got.unsure):
        return True
    return any(
        older(version, known.objects[key])
        for key, version in got.objects.items()
        if key in known.objects
    ) or any(
        # It came after all that we have seen, or has gone since.
        not older(known.version, version)
        for key, version in got.objects.items()
        if key not in known.objects
    )


def _other_history(known: Snapshot, got: Snapshot) -> bool:
    """Whether no earlier moment of what we know can have looked like this.

    An object that we know by a version that the older state covers was not changed between the two:
    there it has that version, or the two are not of one history.
    """
    return any(
        key in known.objects
        and known.objects[key] != version
        and not older(got.version, known.objects[key])
        for key, version in got.objects.items()
    )


def _shown(version: str) -> str:
    return version if len(version) <= 40 else f"{version[:40]} …"


def older(version: str, known: str) -> bool:
    """By the order of Kubernetes 1.35 (KEP-5504); False where there is none."""
    return _is_number(version) and _is_number(known) and _size(version) < _size(known)


def _is_number(version: str) -> bool:
    return version.isascii() and version.isdecimal()


def _size(version: str) -> tuple[int, str]:
    """Orders decimal numbers of any length; ``int`` refuses those of more than 4300 digits."""
    digits = version.lstrip("0")
    return len(digits), digits
