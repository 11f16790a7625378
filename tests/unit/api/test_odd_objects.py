# SPDX-License-Identifier: Apache-2.0
"""Objects that are readable and odd: text that is no Unicode, special addresses, long lists."""

from __future__ import annotations

import pytest

from kubeproxy_bpf.api.addresses import parse_address
from kubeproxy_bpf.api.decode import (
    Kind,
    decoder_of,
    identify,
    parse_event,
    parse_page,
)
from kubeproxy_bpf.api.objects import EndpointSlice, ObjectKey
from tests.decoding import META, decode, service


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (rb"\ud800", "\ufffd"),
        (rb"\uDfff!", "\ufffd!"),
        (rb"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
        (rb"\\ud800", r"\ud800"),
        (b"\xff\\ud800", "\ufffd\ufffd"),
    ],
)
def test_text_that_is_no_unicode_hides_nothing(text: bytes, read: str) -> None:
    """Halves of surrogate pairs are replaced, as by Kubernetes' own decoder; pairs are not."""
    good, odd = b'{"metadata":{"name":"a"}}', b'{"metadata":{"name":"%s"}}' % text
    head = b'{"kind":"ServiceList","metadata":{"resourceVersion":"1"},"items":['
    page = parse_page(head + good + b"," + odd + b"]}", Kind.SERVICE)
    names = [decoder_of(Kind.SERVICE).decode(raw).key.name for raw in page.items]
    assert names == ["a", read]
    event = parse_event(b'{"type":"ADDED","object":%s}' % odd)
    assert identify(event.object)[0] == ObjectKey("", read)


@pytest.mark.parametrize(
    ("family", "text", "why"),
    [
        ("IPv4", "127.0.0.1", "loopback"),
        ("IPv4", "0.0.0.0", "unspecified"),
        ("IPv4", "169.254.169.254", "link-local"),
        ("IPv4", "239.255.0.1", "multicast"),
        ("IPv4", "255.255.255.255", "broadcast"),
        ("IPv4", "::ffff:127.0.0.1", "loopback"),
        ("IPv6", "::1", "loopback"),
        ("IPv6", "::", "unspecified"),
        ("IPv6", "febf::1", "link-local"),
        ("IPv6", "ff02::1", "multicast"),
    ],
)
def test_an_endpoint_in_a_special_range_is_left_out(family: str, text: str, why: str) -> None:
    """It would lead each client to its own host; an API server refuses most of them too."""
    good = "10.0.0.1" if family == "IPv4" else "fd00::1"
    endpoints = [{"addresses": [text]}, {"addresses": [good]}]
    document = {"metadata": META, "addressType": family, "endpoints": endpoints}
    found = decode(Kind.ENDPOINT_SLICE, document)
    assert isinstance(found.object, EndpointSlice)
    assert found.object.addresses == (parse_address(good),)
    (problem,) = found.problems
    assert problem.field == "$.endpoints[0].addresses[0]"
    assert problem.message == f"{text!r} is {why}, endpoint left out"


def test_large_lists_of_ports_are_not_remembered() -> None:
    """What many Services share is one object; ten thousand ports die with their Service."""
    few = [{"name": f"p{number}", "port": number} for number in range(1, 17)]
    many = [*few, {"name": "p17", "port": 17}]
    assert service(spec={"ports": few}).ports is service(spec={"ports": few}).ports
    assert service(spec={"ports": many}).ports is not service(spec={"ports": many}).ports
    assert len(service(spec={"ports": many}).ports) == 17
