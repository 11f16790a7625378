# SPDX-License-Identifier: Apache-2.0
"""Tokens and authorities that change: nobody notices, and nobody is told them."""

from __future__ import annotations

import json

import pytest

from tests.fault.cluster_api.world import PORTS
from tests.fault.load.offered import under_load
from tests.fault.load.stage import ALL

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

THREE = ALL - {"web-4"}


@under_load
def test_wrong_credentials_that_become_right(stage):
    """The server demands a token that the file does not hold yet; when it does, changes arrive."""
    since = len(stage.log())
    with stage.load() as load, load.changing(THREE):
        stage.demand(stage.identity.new_token())
        stage.until_said("watch_failed.*401 Unauthorized", since, times=2)
        stage.scale(3)
        stage.identity.give_token()
        with load.recovering():
            stage.until_answers(THREE)


@under_load
def test_a_new_authority_that_we_learn_of_late(stage):
    """The server proves itself by an authority that is not ours: it is not believed until it is."""
    since = len(stage.log())
    with stage.load() as load, load.changing(THREE):
        stage.present(authority=True)
        stage.until_said("watch_failed.*CERTIFICATE_VERIFY_FAILED", since, times=2)
        stage.scale(3)
        stage.identity.give_authority(stage.identity.authority)
        with load.recovering():
            stage.until_answers(THREE)


@under_load
def test_a_rotation_in_the_right_order_goes_unnoticed(stage):
    """Both authorities first, then the certificate; the new token first, then the end of the old:
    not one request is refused."""
    identity = stage.identity
    since = len(stage.log())
    with stage.load() as load, load.changing(THREE):
        before = identity.authority
        stage.identity.authority = after = type(before)()
        identity.give_authority(before, after)
        stage.present()
        stage.until_answers(ALL)
        identity.new_token()
        identity.give_token()
        stage.demand(identity.token)
        identity.give_authority(after)
        stage.scale(3)
        with load.recovering():
            stage.until_answers(THREE)
    said = stage.log()[since:]
    assert "401 Unauthorized" not in said and "CERTIFICATE" not in said


def test_nothing_shows_a_token(stage):
    """Not the log, and no page of either port, with all debug pages on."""
    shown = {"log": stage.log()}
    for port in PORTS:
        for path in PAGES:
            status, text = stage.get(port, path)
            shown[f"{port}{path}"] = text
            assert status in (200, 404, 503), (port, path, status)
    assert f":{7443}" in shown["10249/metrics"], "the pages tell of the API server"
    assert json.loads(shown["10249/configz"].partition("\n\n")[2])
    for where, text in shown.items():
        for token in stage.identity.tokens:
            assert token not in text, where


PAGES = (
    "/metrics",
    "/configz",
    "/flagz",
    "/statusz",
    "/proxyMode",
    "/healthz",
    "/livez",
    "/debug/pprof/",
    "/debug/pprof/cmdline",
    "/debug/pprof/goroutine?debug=2",
    "/debug/pprof/heap?debug=1",
    "/debug/pprof/threadcreate?debug=1",
)
