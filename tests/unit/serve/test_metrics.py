# SPDX-License-Identifier: Apache-2.0
"""The metrics server: the state of the moment, in the formats that Prometheus asks for."""

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from kubeproxy_bpf.metering import Counter, Histogram, gauge
from kubeproxy_bpf.serve import metrics_process
from kubeproxy_bpf.serve.exposition import render
from kubeproxy_bpf.serve.metrics import MetricsServer
from kubeproxy_bpf.serve.mux import text
from tests.unit.serve.test_healthz import free_port, get_text

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def parsed(body):
    return {family.name: family for family in text_string_to_metric_families(body)}


def values(body):
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in parsed(body).values()
        for sample in family.samples
    }


def some_families():
    counter = Counter("answers_total", "[ALPHA] Answers", ("code",))
    counter.inc("200", by=2)
    histogram = Histogram("took_seconds", "[ALPHA] Durations", (0.5, 1.0, 2.5), ("family",))
    for value in (0.1, 0.7, 9.0):
        histogram.observe(value, "IPv4")
    return counter.family(), histogram.family(), Counter("never_total", "", ("a",)).family()


def test_histograms_accumulate_and_bounds_are_written_as_by_go():
    """Buckets contain those before them; "1", not "1.0", as recording rules name it."""
    body = render(some_families())[0].decode()
    lines = body.splitlines()

    assert 'took_seconds_bucket{family="IPv4",le="0.5"} 1.0' in lines
    assert 'took_seconds_bucket{family="IPv4",le="1"} 2.0' in lines
    assert 'took_seconds_bucket{family="IPv4",le="2.5"} 2.0' in lines
    assert 'took_seconds_bucket{family="IPv4",le="+Inf"} 3.0' in lines
    assert 'took_seconds_count{family="IPv4"} 3.0' in lines
    assert 9.8 == pytest.approx(values(body)[("took_seconds_sum", ("IPv4",))])
    assert "# HELP took_seconds [ALPHA] Durations" in lines


def test_a_metric_without_series_is_not_mentioned():
    """As by the servers of Kubernetes."""
    body = render(some_families())[0].decode()
    assert "answers_total" in body
    assert "never" not in body


def test_the_format_follows_the_accept_header():
    """OpenMetrics only for those who ask for it, and then in full: a parser takes it."""
    body, content_type = render(some_families(), OPENMETRICS)
    assert "openmetrics" in content_type
    assert {"answers", "took_seconds"} <= {f.name for f in parse_openmetrics(body.decode())}
    assert 'le="1.0"' in body.decode()
    assert render(some_families())[1].startswith("text/plain; version=0.0.4")


@pytest.mark.parametrize("version", ["abc", "1..x", "-", "9" * 5000])
def test_a_version_that_is_none_is_no_failure(version):
    """Whoever asks for something odd gets text."""
    for name in ("application/openmetrics-text", "text/plain"):
        assert b"process_start_time_seconds" in render((), f"{name};version={version}")[0]


def test_the_process_shows_itself():
    """What alerts and dashboards ask of every target, under the usual names."""
    seen = {name for name, _ in values(render(tuple(metrics_process.families()))[0].decode())}
    assert {
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_max_fds",
        "process_virtual_memory_bytes",
        "process_virtual_memory_max_bytes",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
        "process_network_receive_bytes_total",
        "process_network_transmit_bytes_total",
        "python_info",
        "python_gc_collections_total",
    } <= seen


def test_the_start_time_is_that_of_the_library():
    """Two ways to read one fact must not differ."""
    body = render(())[0].decode()
    (theirs,) = [v for (name, _), v in values(body).items() if name == "process_start_time_seconds"]
    (ours,) = metrics_process.started().series.values()
    assert theirs == pytest.approx(ours, abs=0.1)


async def nothing():
    return ()


@asynccontextmanager
async def served(read=nothing, **options):
    port = free_port()
    task = asyncio.create_task(MetricsServer(read, "127.0.0.1", port, **options).run())
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_it_is_read_when_asked():
    """Each request shows the state of its moment."""
    moments = [(gauge("x", "", 1),), (gauge("x", "", 2),)]

    async def read():
        return moments.pop(0)

    async with served(read) as url:
        first = values(await get_text(f"{url}/metrics"))
        second = values(await get_text(f"{url}/metrics"))

    assert (1, 2) == (first[("x", ())], second[("x", ())])


async def test_answers_are_compressed_for_those_who_accept_it():
    """For others they are text as it is."""
    accepted = [("gzip", "gzip"), ("identity", None), ("deflate, gzip;q=0.5", "gzip")]
    accepted += [("gzip;q=0, deflate", None), ("gzip; q=0.000", None), ("xgzip", None)]
    async with served() as url, aiohttp.ClientSession() as session:
        await get_text(f"{url}/healthz")
        for encodings, encoding in accepted:
            headers = {"Accept-Encoding": encodings}
            async with session.get(f"{url}/metrics", headers=headers) as answer:
                assert "process_start_time_seconds" in await answer.text()
                assert encoding == answer.headers.get("Content-Encoding")


async def test_health_checks_are_counted_where_they_were_asked_for():
    """Nothing before the first check; DELETE begins anew."""
    async with served() as url:
        before = values(await get_text(f"{url}/metrics/slis"))
        assert "ok" == await get_text(f"{url}/healthz")
        await get_text(f"{url}/healthz?verbose")
        after = values(await get_text(f"{url}/metrics/slis"))
        async with aiohttp.ClientSession() as session:
            async with session.delete(f"{url}/metrics/slis") as answer:
                assert 200 == answer.status
        reset = values(await get_text(f"{url}/metrics/slis"))

    assert ["process_start_time_seconds"] == [name for name, _ in before]
    assert 1 == after[("kubernetes_healthcheck", ("ping", "healthz"))]
    assert 2 == after[("kubernetes_healthchecks_total", ("ping", "success", "healthz"))]
    assert before.keys() == reset.keys()


@pytest.mark.parametrize(
    "query, lines",
    [
        ("?verbose", ["[+]ping ok", "healthz check passed"]),
        ("?verbose&exclude=ping", ["[+]ping excluded: ok", "healthz check passed"]),
        ("?exclude=ping", ["ok"]),
    ],
)
async def test_health_tells_its_checks_when_asked(query, lines):
    """There is one check, ping, and it may be left out."""
    async with served() as url:
        assert lines == (await get_text(f"{url}/healthz{query}")).splitlines()


async def test_other_pages_are_served_beside():
    """Whatever else belongs to this port; what nobody knows is not found."""

    async def page(_request):
        return text("more")

    async with served(pages={"/more": page}) as url:
        assert "more" == await get_text(f"{url}/more")
        assert "404 page not found\n" == await get_text(f"{url}/metrics/")
