# SPDX-License-Identifier: Apache-2.0
"""Change without end: Services that come and go while something else happens to the proxy.

With a breath in between: a machine that does nothing but this starts no process in time.
"""

from __future__ import annotations

import threading

from tests.fault.load.stage import Stage, service

BREATH_S = 0.01


class Churn:
    """Changes Services all the time, in a thread, until the block ends."""

    def __init__(self, stage: Stage, count: int = 8) -> None:
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
            self.stage.persist(lambda name=name: self.stage.delete(service(name)))
        assert not self.errors, self.errors

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                for name in self.names:
                    self.stage.put(service(name))
                    self._changed()
                for name in self.names[::2]:
                    self.stage.delete(service(name))
                    self._changed()
        except BaseException as error:
            self.errors.append(error)

    def _changed(self) -> None:
        self.changes += 1
        self._stop.wait(BREATH_S)
