# SPDX-License-Identifier: Apache-2.0
"""The pages of the metrics server over a real socket: paths, methods, bytes and headers."""

import asyncio
import json
import re
from contextlib import asynccontextmanager

import aiohttp
import pytest
import yaml

from kubeproxy_bpf import log
from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.serve.metrics import MetricsServer
from kubeproxy_bpf.serve.pages import pages, prefixes
from tests.unit.serve.test_healthz import fetch, free_port

TRIPLE = "v=v1beta1;g=config.k8s.io;as="
CONFIG = Config(
    hostname="n",
    mode="nftables",
    document={"mode": "nftables", "nodePortAddresses": ["primary"]},
    flag_values={"v": "2", "config": "/var/lib/kube-proxy/config.conf"},
)
PROFILED = Config(hostname="n", profiling=True)


@asynccontextmanager
async def served(config):
    """A function that asks the server of a configuration: (status, headers, body)."""
    port = free_port()
    server = MetricsServer(
        lambda: (), "127.0.0.1", port, pages=pages(config), prefixes=prefixes(config)
    )
    task = asyncio.create_task(server.run())
    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession() as session:

        async def ask(path, method="GET", body=None, **headers):
            async with session.request(
                method, url + path, data=body, headers=headers, allow_redirects=False
            ) as answer:
                return answer.status, answer.headers, await answer.text()

        try:
            await fetch(f"{url}/healthz", lambda answer: answer.text())
            yield ask
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT"])
async def test_monitoring_reads_the_mode_that_was_asked_for(method):
    """One of kube-proxy's words, without a newline, for any method."""
    async with served(CONFIG) as ask:
        status, headers, body = await ask("/proxyMode", method)
    assert (200, "nftables") == (status, body)
    assert "text/plain; charset=utf-8" == headers["Content-Type"]
    assert "nosniff" == headers["X-Content-Type-Options"]


async def test_the_configuration_is_shown_as_a_document():
    """With kind and version before all fields, and what was written before it was resolved."""
    async with served(CONFIG) as ask:
        status, headers, body = await ask("/configz")
    assert "application/json" == headers["Content-Type"]
    assert "nosniff" == headers["X-Content-Type-Options"]
    assert 200 == status
    assert body == (
        '{"kubeproxy.config.k8s.io":{"kind":"KubeProxyConfiguration",'
        '"apiVersion":"kubeproxy.config.k8s.io/v1alpha1",'
        '"mode":"nftables","nodePortAddresses":["primary"]}}'
    )


@pytest.mark.parametrize(
    "path", ["/", "/metrics/", "/readyz", "/livez", "/proxyMode/", "/debug/pprof", "/debug/flags/v"]
)
async def test_all_other_paths_are_unknown(path):
    """In Go's words; the debug pages too, unless profiling is on."""
    async with served(CONFIG) as ask:
        status, headers, body = await ask(path)
    assert (404, "404 page not found\n") == (status, body)
    assert "nosniff" == headers["X-Content-Type-Options"]
    assert "Server" not in headers


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "text/plain",
        "*/*",
        "application/xml, */*;q=0.1",
        f"application/json;{TRIPLE}Flagz;q=0.5, application/json;{TRIPLE}Statusz;q=0.5, text/plain",
    ],
)
async def test_people_get_text(accept):
    """Who asks for nothing, for anything, or prefers it gets a page to read."""
    async with served(CONFIG) as ask:
        status, headers, flags = await ask("/flagz", Accept=accept)
        _, _, state = await ask("/statusz", Accept=accept)
    assert (200, "text/plain; charset=utf-8") == (status, headers["Content-Type"])
    assert flags.startswith("\nkube-proxy flagz\nWarning: This endpoint is not meant to be machine")
    assert flags.endswith("\nconfig=/var/lib/kube-proxy/config.conf\nv=2\n")
    assert state.startswith("\nkube-proxy statusz\nWarning: ")
    assert re.search(r"\n\nStarted: \w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d UTC \d{4}\nUp: ", state)
    assert re.search(r"\nUp: 0 hr 00 min \d\d sec\nGo version: ", state)
    assert "\nBinary version: " in state and "\nEmulation version: 1.36\n" in state
    assert state.endswith("\nPaths: /configz /flagz /healthz /metrics /proxyMode\n")


@pytest.mark.parametrize(
    ("media", "read"), [("application/json", json.loads), ("application/yaml", yaml.safe_load)]
)
async def test_programs_get_objects(media, read):
    """Kind, group and version in the Accept header name what comes."""
    async with served(CONFIG) as ask:
        _, headers, flags = await ask("/flagz", Accept=f"{media};{TRIPLE}Flagz")
        _, _, state = await ask("/statusz", Accept=f"{media};{TRIPLE}Statusz")
    assert media == headers["Content-Type"].partition(";")[0]
    assert "Warning" not in headers
    assert read(flags) == {
        "kind": "Flagz",
        "apiVersion": "config.k8s.io/v1beta1",
        "metadata": {"name": "kube-proxy"},
        "flags": CONFIG.flag_values,
    }
    fields = ["startTime", "uptimeSeconds", "goVersion", "binaryVersion", "emulationVersion"]
    assert ["kind", "apiVersion", "metadata", *fields, "paths"] == list(read(state))


async def test_the_older_version_warns():
    """v1alpha1 is served and called deprecated."""
    accept = "application/json;v=v1alpha1;g=config.k8s.io;as=Statusz"
    async with served(CONFIG) as ask:
        status, headers, body = await ask("/statusz", Accept=accept)
    assert 200 == status
    assert "config.k8s.io/v1alpha1" == json.loads(body)["apiVersion"]
    assert headers["Warning"].startswith('299 - "')


@pytest.mark.parametrize(
    "accept",
    [
        "application/json",
        "application/xml",
        "application/json;v=v1beta1;g=config.k8s.io",
        "application/json;v=v2;g=config.k8s.io;as=Flagz",
        "application/json;v=v1beta1;g=config.k8s.io;as=Statusz",
    ],
)
async def test_what_we_do_not_have_is_not_acceptable(accept):
    """A Status object says what there is."""
    async with served(CONFIG) as ask:
        status, _, body = await ask("/flagz", Accept=accept)
    assert 406 == status
    assert ("Status", 406) == (json.loads(body)["kind"], json.loads(body)["code"])


async def test_a_gate_that_is_off_takes_its_page_away():
    """ComponentFlagz and ComponentStatusz."""
    gates = {"ComponentFlagz": False, "ComponentStatusz": False}
    async with served(Config(hostname="n", feature_gates=gates)) as ask:
        assert 404 == (await ask("/flagz"))[0] == (await ask("/statusz"))[0]


async def test_profiling_shows_what_runs():
    """Go's profiles are unknown; tasks and threads are listed, and shown with their stacks."""
    async with served(PROFILED) as ask:
        status, headers, _ = await ask("/debug/pprof")
        assert (302, "/debug/pprof/") == (status, headers["Location"])
        status, headers, index = await ask("/debug/pprof/")
        assert 200 == status and headers["Content-Type"].startswith("text/html")
        assert "/debug/pprof/tasks" in index
        tasks, threads = [(await ask(f"/debug/pprof/{name}"))[2] for name in ("tasks", "threads")]
        assert (404, "Unknown profile\n") == (await ask("/debug/pprof/heap"))[::2]
    assert "in MetricsServer.run\n" in tasks and "in serve\n" in tasks
    assert "MainThread" in threads


async def test_verbosity_is_put(monkeypatch):
    """Nothing but a number is taken, and nothing but PUT."""
    taken = []
    monkeypatch.setattr(log, "set_verbosity", taken.append)
    async with served(PROFILED) as ask:
        _, _, index = await ask("/debug/flags")
        assert "/debug/flags/v" in index
        assert index == (await ask("/debug/flags/x"))[2]
        status, headers, body = await ask("/debug/flags/v", "PUT", b"4")
        assert (200, "successfully set klog.logging.verbosity to 4\n") == (status, body)
        assert headers["Content-Type"].startswith("text/plain")
        assert "nosniff" == headers["X-Content-Type-Options"]
        for wrong in (b"", b"-1", b"x", b"4\n", b"99999999999"):
            assert 400 == (await ask("/debug/flags/v", "PUT", wrong))[0]
        for method in ("GET", "POST", "DELETE"):
            refused = await ask("/debug/flags/v", method)
            assert (406, "unsupported http method\n") == refused[::2]
    assert [4] == taken
