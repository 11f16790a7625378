# SPDX-License-Identifier: Apache-2.0
"""The health and the metrics server under abuse: no secret, no traceback, always an answer."""

from __future__ import annotations

import json
import os
import resource
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Callable, Sequence

import pytest

from tests.fault.load.stage import Stage

from .secrets_planted import SECRET

pytestmark = pytest.mark.root

HEALTH, METRICS = 10256, 10249
MANY, MANY_LONG = 1_500, 10_000
PAGES = (
    *("/", "/healthz", "/livez", "/metrics", "/metrics/slis", "/proxyMode", "/configz", "/flagz"),
    *("/statusz", "/debug/pprof", "/debug/pprof/", "/debug/pprof/tasks", "/debug/pprof/threads"),
    *("/debug/pprof/cmdline", "/debug/pprof/heap", "/debug/flags", "/debug/flags/v"),
    *("/healthz?verbose", "/healthz/ping", "/metrics?x=1", "/configz/", "/kubeconfig"),
    *("/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/debug/../configz"),
    *("/..%2f..%2fproc/self/environ", "/debug/pprof/../../configz", "/%00", "/\x7f"),
)
_HEADERS = "Host: node\r\nConnection: close\r\n"
GARBAGE: tuple[bytes, ...] = (
    *(
        b"\x00" * 64,
        b"\r\n\r\n",
        b"GET",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\n",
    ),
    *(b"GET / HTTP/9.9\r\n\r\n", b"GET /\xff\xfe HTTP/1.1\r\n\r\n", b"G\x00T / HTTP/1.1\r\n\r\n"),
    b"DESTROY /configz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET http://169.254.169.254/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"CONNECT 10.0.0.1:22 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 50_000 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n B: c\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9" + b"9" * 5000 + b"\r\n\r\n",
    b"PUT /debug/flags/v HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
    b"Connection: close\r\n\r\n" + b"9" * 5000,
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
)
SMUGGLED = (
    b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 44\r\nTransfer-Encoding: chunked\r\n"
    b"\r\n0\r\n\r\nGET /configz HTTP/1.1\r\nHost: smuggled\r\n\r\n",
    b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nContent-Length: 5\r\n\r\n12345G",
    b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\nContent-Length: 4\r\n"
    b"\r\n5c\r\nGET /configz HTTP/1.1\r\nHost: smuggled\r\n\r\n0\r\n\r\n",
)


def on_node(stage: Stage, function: Callable[[], object]) -> object:
    """Both listen there; the metrics on loopback alone."""
    return stage.sandbox.run_in("node1", function)


def talk(port: int, request: bytes, wait_s: float = 2.0) -> bytes:
    """Send bytes, and return all that comes back until the end or for a while."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.settimeout(wait_s)
        try:
            connection.sendall(request)
            while more := connection.recv(65536):
                found += more
        except OSError:  # it hung up on us, or waits for more
            pass
    return found


def get(port: int, path: str) -> bytes:
    return talk(port, f"GET {path} HTTP/1.1\r\n{_HEADERS}\r\n".encode("latin-1"))


def all_pages() -> dict[str, bytes]:
    return {f"{port}{path}": get(port, path) for port in (HEALTH, METRICS) for path in PAGES}


def is_well(stage: Stage) -> bool:
    """Both answer, and the process is the same."""
    said = [bytes(on_node(stage, partial(get, port, "/livez"))) for port in (HEALTH,)]
    said.append(bytes(on_node(stage, partial(get, METRICS, "/healthz"))))  # type: ignore[arg-type]
    return all(each.startswith(b"HTTP/1.1 200") for each in said)


def calm(stage: Stage, begun: int) -> None:
    """No traceback in the log since then."""
    log = stage.log()[begun:]
    assert "Traceback" not in log and "Error handling request" not in log, log[-2000:]


def test_no_page_and_no_line_shows_a_secret(stage: Stage) -> None:
    """The token of the kubeconfig stands nowhere, and no path leads to files."""
    pages = on_node(stage, all_pages)
    assert isinstance(pages, dict)
    shown = [page for page, body in pages.items() if SECRET.encode() in body]
    assert not shown
    assert SECRET not in stage.log()
    assert not [page for page, body in pages.items() if b"root:" in body or b"PATH=" in body]
    assert pages[f"{METRICS}/configz"].startswith(b"HTTP/1.1 200")
    document = json.loads(pages[f"{METRICS}/configz"].partition(b"\r\n\r\n")[2])
    assert "kubeproxy.config.k8s.io" in document


def test_garbage_is_refused(stage: Stage) -> None:
    """Whatever bytes come: an error, or the end of the connection, and nothing in the log."""
    begun, pid = len(stage.log()), stage.proxy_pid()
    for port in (HEALTH, METRICS):
        answers = on_node(stage, partial(_talks, port, GARBAGE))
        assert isinstance(answers, list)
        for request, answer in zip(GARBAGE, answers):
            assert not answer.startswith(b"HTTP/1.1 5"), (request[:100], answer[:300])
            assert SECRET.encode() not in answer
    assert is_well(stage) and stage.proxy_pid() == pid
    calm(stage, begun)


def _talks(port: int, requests: Sequence[bytes]) -> list[bytes]:
    """All at once: whoever is not answered waits for its own time only."""
    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(lambda request: talk(port, request, 0.5), requests))


def test_no_request_hides_in_another(stage: Stage) -> None:
    """Two lengths, or a length and chunks: one answer at most, an error, and the end."""
    begun = len(stage.log())
    answers = on_node(stage, partial(_talks, METRICS, SMUGGLED))
    assert isinstance(answers, list)
    for request, answer in zip(SMUGGLED, answers):
        assert b"kubeproxy.config.k8s.io" not in answer, request
        assert answer.count(b"HTTP/1.1 ") <= 1, (request, answer)
        assert not answer.startswith(b"HTTP/1.1 2"), (request, answer)
    calm(stage, begun)


def test_a_crowd_of_connections_keeps_nobody_out(stage: Stage, long: bool) -> None:
    """They say nothing, or half a request; who asks is answered, descriptors stay few."""
    begun, pid = len(stage.log()), stage.proxy_pid()
    count = MANY_LONG if long else MANY
    answers, descriptors = on_node(stage, partial(_crowd, pid, count))  # type: ignore[misc]
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    assert len(answers) == count // 500
    assert max(descriptors) < 1000, descriptors
    assert is_well(stage) and stage.proxy_pid() == pid
    calm(stage, begun)


def _crowd(pid: int, count: int) -> tuple[list[bytes], list[int]]:
    """Stand in great numbers at the health server, and ask now and then."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 200, count + 200))
    standing: list[socket.socket] = []
    answers, descriptors = [], []
    for number in range(count):
        # Of several addresses, since one has not so many ports to give.
        peer = f"127.0.0.{number % 4 + 2}"
        connection = socket.create_connection(("127.0.0.1", HEALTH), 10, (peer, 0))
        standing.append(connection)
        if number % 2:
            connection.setblocking(False)
            connection.send(b"GET /healthz HTTP/1.1\r\nHost: ")
        if number % 500 == 499:
            answers.append(get(HEALTH, "/livez"))
            descriptors.append(len(os.listdir(f"/proc/{pid}/fd")))
    return answers, descriptors
