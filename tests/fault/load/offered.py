# SPDX-License-Identifier: Apache-2.0
"""Hold load while a fault happens: ``with offered(sources, backends, scenario) as load``.

A source is a place of the sandbox from which one generator process asks one frontend. All
generators stand and hold their connections before the block begins; they end with it, and only
then is anything judged, unless the block itself failed.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Sequence

from kubeproxy_bpf.sandbox.process import Place
from tests.fault.load.report import Backends, LoadNotThere, Report

GENERATOR = Path(__file__).with_name("generator.py")
ATTEMPTS = 3
LEAST_SECONDS = 1.5


class Source(NamedTuple):
    """A place, the frontend that it asks, and how much (new ones per second, held ones)."""

    name: str
    place: Place
    address: str
    tcp_port: int
    udp_port: int
    tcp: float = 240
    udp: float = 110
    held_tcp: int = 22
    held_udp: int = 8


class Load:
    """What a scenario says about its backends and its recovery while the load is on."""

    def __init__(self, backends: Iterable[str], scenario: str) -> None:
        self.report = Report(scenario)
        self.allowed = Backends()
        self.allowed.set(backends, 0.0)
        self.expected_losses: dict[str, int] = {}
        self.min_seconds = LEAST_SECONDS

    def backends(self, names: Iterable[str]) -> None:
        """From now on exactly these may answer; so call it when the proxy must have followed."""
        self.allowed.set(names, time.monotonic())

    @contextmanager
    def changing(self, names: Iterable[str]) -> Iterator[None]:
        """Both the set of before and the new one may answer in the block, after it the new one."""
        before, wanted = self.allowed.now, frozenset(names)
        self.allowed.set(before | wanted, time.monotonic(), must=before & wanted)
        yield
        self.backends(wanted)

    @contextmanager
    def recovering(self) -> Iterator[None]:
        """From the end of the fault until the block ends, which waits for the proxy."""
        begun = time.monotonic()
        yield
        self.report.recovery_s = time.monotonic() - begun

    def expect(self, **losses: int) -> None:
        """So many of these losses are part of the fault (and stand in docs/reliability.md)."""
        self.expected_losses.update(losses)


@contextmanager
def offered(
    sources: Sequence[Source], backends: Iterable[str], scenario: str, record: bool = True
) -> Iterator[Load]:
    """Offer load from all sources while the block runs; then record and judge."""
    load = Load(backends, scenario)
    with ExitStack() as stack:
        running = [(source, stack.enter_context(_started(source))) for source in sources]
        for _, process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        begun = time.monotonic()
        yield load
        time.sleep(max(0.0, begun + load.min_seconds - time.monotonic()))
        for _, process in running:
            process.terminate()
        told = [(source.name, _told(process)) for source, process in running]
    for name, each in told:
        load.report.take(name, each, load.allowed)
    if record:
        load.report.record()
    load.report.judge(load.expected_losses)


@contextmanager
def _started(source: Source) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-I", "-S", str(GENERATOR), source.address]
    argv += [str(source.tcp_port), str(source.udp_port)]
    argv += [f"--tcp={source.tcp}", f"--udp={source.udp}"]
    argv += [f"--held-tcp={source.held_tcp}", f"--held-udp={source.held_udp}"]
    process = subprocess.Popen(source.place.launch(argv), stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _told(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    told: dict[str, Any] = json.loads(output)
    return told


def under_load(scenario: Callable[..., None]) -> Callable[..., None]:
    """Repeat a scenario whose load was not there, since it proves nothing; the third time it fails.

    Whatever else fails, fails at once. The scenario takes a stage, which is restored in between.
    """

    @functools.wraps(scenario)
    def repeated(**arguments: Any) -> None:
        stage = next(each for each in arguments.values() if hasattr(each, "restore"))
        for attempt in range(ATTEMPTS):
            try:
                scenario(**arguments)
                return
            except LoadNotThere:
                if attempt == ATTEMPTS - 1:
                    raise
                stage.restore()

    return repeated
