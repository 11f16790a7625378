# SPDX-License-Identifier: Apache-2.0
"""An empty network namespace, as a node that has nothing but rules."""

from __future__ import annotations

import os
import subprocess
from itertools import count
from typing import Callable, Iterator, TypeVar

import pytest

from kubeproxy_bpf.sandbox import namespace

T = TypeVar("T")
_numbers = count()


class Node:
    """A network namespace of its own."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, *argv: str, text: str = "") -> str:
        """Run a program in it, which must not fail; returns what it wrote."""
        command = ["nsenter", f"--net={namespace.path_of(self.name)}", *argv]
        done = subprocess.run(command, input=text, capture_output=True, text=True)
        assert done.returncode == 0, (argv, done.stderr)
        return done.stdout

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in it, in a thread."""
        return namespace.call(self.name, function)


@pytest.fixture
def node() -> Iterator[Node]:
    name = f"kpbt-take-{os.getpid()}-{next(_numbers)}"
    namespace.prepare()
    namespace.create(name, lambda inode: None, {})
    try:
        made = Node(name)
        made.run("ip", "link", "set", "lo", "up")
        yield made
    finally:
        namespace.remove(name)
