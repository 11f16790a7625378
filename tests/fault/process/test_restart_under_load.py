# SPDX-License-Identifier: Apache-2.0
"""The process may die at any moment: connections go on, ids stay, nothing stale remains."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from tests.fault.load.offered import under_load
from tests.fault.load.stage import ALL, service

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]


class Churn:
    """Changes Services all the time, in a thread, until told to stop."""

    def __init__(self, stage, count: int = 8) -> None:
        self.stage = stage
        self.names = [f"churn-{n}" for n in range(count)]
        self.changes = 0
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Churn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for name in self.names:
            self.stage.persist(lambda name=name: self._delete(name))
        assert not self.errors, self.errors

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                for name in self.names:
                    self.stage.put(service(name))
                    self.changes += 1
                for name in self.names[::2]:
                    self._delete(name)
                    self.changes += 1
        except BaseException as error:
            self.errors.append(error)

    def _delete(self, name: str) -> None:
        from kubeproxy_bpf.errors import ApiError

        try:
            self.stage.sandbox.api.delete(service(name))
        except ApiError as error:
            if error.status != 404:
                raise


def await_first_sync(stage, starts: int) -> None:
    """Wait until the process that came last has synced and proved its hooks."""
    deadline = time.monotonic() + 60
    while stage.log().count("hooks_proved") < starts:
        assert time.monotonic() < deadline, stage.log()[-3000:]
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
@under_load
def test_the_process_ends_during_heavy_change(stage, number):
    """Several ends and starts while Services churn: no connection fails at any time."""
    starts = stage.log().count("hooks_proved")
    with stage.load(), Churn(stage) as churn:
        for _ in range(3):
            time.sleep(0.7)
            stage.kill_proxy(number)
            time.sleep(0.7)
            stage.start_proxy()
            starts += 1
            await_first_sync(stage, starts)
    assert churn.changes > 50
    stage.until_answers(ALL)


@under_load
def test_ids_stay_and_nothing_stale_remains(stage):
    """What did not change keeps its service index; what went while the process was down goes."""
    kept = stage.put(service("kept"))["spec"]["clusterIP"]
    gone = stage.put(service("gone"))["spec"]["clusterIP"]
    for vip in (kept, gone):
        stage.until_answers(ALL, vip)
    before = stage.maps()["kpb_frontends"]
    starts = stage.log().count("hooks_proved")
    with stage.load():
        stage.kill_proxy()
        stage.sandbox.api.delete(service("gone"))
        assert ALL == stage.answers(gone), "nothing changes while the process is down"
        stage.start_proxy()
        await_first_sync(stage, starts + 1)
    after = stage.maps()["kpb_frontends"]
    assert set(after) < set(before)
    assert {key: before[key] for key in after} == after
    assert 2 == len(before) - len(after)
    stage.sandbox.api.delete(service("kept"))


@under_load
def test_changes_made_while_it_was_down_arrive(stage):
    """A restart catches up with endpoints that came and went meanwhile."""
    starts = stage.log().count("hooks_proved")
    with stage.load() as load:
        stage.kill_proxy()
        stage.sandbox.scale("web", 2)
        assert ALL == stage.answers(), "the old endpoints serve on"
        with load.changing({"web-1", "web-2"}), load.recovering():
            stage.start_proxy()
            await_first_sync(stage, starts + 1)
            stage.until_answers({"web-1", "web-2"})


@under_load
def test_a_second_process_waits_and_writes_nothing(stage):
    """One writer per instance: the second waits until the first ends, then takes over."""
    starts = stage.log().count("hooks_proved")
    first = stage.proxy_process()
    await_first_sync(stage, starts)
    before = stage.maps()
    with stage.load():
        stage.start_proxy()
        deadline = time.monotonic() + 30
        while "writer_awaited" not in stage.log():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert starts == stage.log().count("hooks_proved")
        first.terminate()
        assert 0 == first.wait(timeout=30)
        await_first_sync(stage, starts + 1)
    assert before == stage.maps()
    assert first.pid != stage.proxy_pid()
