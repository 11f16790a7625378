# SPDX-License-Identifier: Apache-2.0
"""/metrics shows the state of the moment, in the formats that Prometheus asks for."""

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from kubeproxy_bpf.serve.devices import XDP_MODES, DeviceReading
from kubeproxy_bpf.serve.metrics import MetricsServer, Reading, render
from tests.unit.serve.test_healthz import free_port, get_text

DEVICES = DeviceReading(
    loaded=True,
    attached=(("eth0", "ingress"), ("eth0", "egress")),
    put_back={("eth0", "ingress"): 3},
    refused=(("tun0", "egress"),),
    xdp_modes={"eth0": "native"},
)
READING = Reading(
    {"translated": 7, "no_endpoints": 2}, {"slots": 1}, 3, 40, 1_700_000_000.0, devices=DEVICES
)


def samples(text):
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_reading_has_its_metric():
    """Reasons and maps are labels; counters carry their suffix."""
    seen = samples(render(READING)[0].decode())

    assert 7 == seen["kubeproxy_bpf_verdicts_total", ("translated",)]
    assert 2 == seen["kubeproxy_bpf_verdicts_total", ("no_endpoints",)]
    assert 1 == seen["kubeproxy_bpf_service_ports_unfit", ("slots",)]
    assert 3 == seen["kubeproxy_bpf_refused_writes_total", ()]
    assert 40 == seen["kubeproxy_bpf_service_ports", ()]
    assert 1_700_000_000 == seen["kubeproxy_sync_proxy_rules_last_timestamp_seconds", ()]


def test_devices_tell_where_programs_stand():
    """Each hook where a program belongs is 1 or 0, and each uplink has exactly one XDP mode."""
    seen = samples(render(READING)[0].decode())

    assert 1 == seen["kubeproxy_bpf_packet_path_loaded", ()]
    assert 1 == seen["kubeproxy_bpf_device_attached", ("eth0", "egress")]
    assert 0 == seen["kubeproxy_bpf_device_attached", ("tun0", "egress")]
    assert 3 == seen["kubeproxy_bpf_device_reattachments_total", ("eth0", "ingress")]
    modes = {mode: seen["kubeproxy_bpf_device_xdp_mode", ("eth0", mode)] for mode in XDP_MODES}
    assert {"native": 1, "generic": 0, "none": 0} == modes


def test_the_format_follows_the_accept_header():
    """OpenMetrics only for those who ask for it."""
    assert "openmetrics" in render(READING, "application/openmetrics-text; version=1.0.0")[1]
    assert "openmetrics" not in render(READING)[1]


async def test_it_is_read_when_asked():
    """Each request shows the state of its moment."""
    readings = [READING, READING._replace(unfit={})]
    port = free_port()
    server = MetricsServer(lambda: readings.pop(0), "127.0.0.1", port)
    task = asyncio.create_task(server.run())
    try:
        first = samples(await get_text(f"http://127.0.0.1:{port}/metrics"))
        second = samples(await get_text(f"http://127.0.0.1:{port}/metrics"))
        assert "ok" == await get_text(f"http://127.0.0.1:{port}/healthz")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert ("kubeproxy_bpf_service_ports_unfit", ("slots",)) in first
    assert ("kubeproxy_bpf_service_ports_unfit", ("slots",)) not in second
