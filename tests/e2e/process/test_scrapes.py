# SPDX-License-Identifier: Apache-2.0
"""Scrapes while the proxy ends."""

from __future__ import annotations

import contextlib
import http.client
import signal
import threading
import time

import pytest

from .test_metrics import Watched

pytestmark = pytest.mark.root


def test_scrapes_do_not_disturb_the_end(tmp_path):
    """Whoever reads the maps while they are closed gets them, or nothing; the end is clean."""
    ending = Watched(tmp_path)
    enough = threading.Event()

    def scrape() -> None:
        while not enough.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                ending.ask("/metrics")

    scrapers = [threading.Thread(target=scrape) for _ in range(4)]
    try:
        ending.until(lambda: ending.get("/healthz")[0] == 200)
        for scraper in scrapers:
            scraper.start()
        time.sleep(0.5)
        ending.proxy.send_signal(signal.SIGTERM)
        assert 0 == ending.proxy.wait(timeout=30)
    finally:
        enough.set()
        for scraper in scrapers:
            scraper.join()
        ending.close()
    assert "Traceback" not in ending.log.read_text()
    assert "proxy_stopped" == ending.events()[-1]["event"]
