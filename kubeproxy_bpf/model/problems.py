# SPDX-License-Identifier: Apache-2.0
"""Collects what is wrong with one object while it is compiled.

Bad cluster data never raises and never stops another object; it becomes Problem values that the
caller reports once. Called by the modules of the model.
"""

from __future__ import annotations

from kubeproxy_bpf.model.types import Problem


class Report:
    """Problems of one object in the order found, each once: both families may meet the same one."""

    def __init__(self, kind: str, namespace: str, name: str) -> None:
        self._object = (kind, namespace, name)
        self._problems: dict[Problem, None] = {}

    def add(self, field: str, message: str) -> None:
        self._problems[Problem(*self._object, field, message)] = None

    def note(self, field: str, message: str) -> None:
        """Nothing is wrong, but less is done than one may think."""
        self._problems[Problem(*self._object, field, message, note=True)] = None

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(self._problems)
