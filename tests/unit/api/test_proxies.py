# SPDX-License-Identifier: Apache-2.0
"""HTTP_PROXY, HTTPS_PROXY and NO_PROXY mean what they mean to Go's clients."""

import pytest

from kubeproxy_bpf.api.proxies import Proxies

BOTH = {"HTTP_PROXY": "http://plain:1", "HTTPS_PROXY": "secure:2"}


def test_each_scheme_has_a_proxy_of_its_own():
    """One that is named without a scheme is spoken to in plain HTTP."""
    proxies = Proxies(BOTH)

    assert "http://plain:1" == proxies.for_url("http://api.example.com:8080/x")
    assert "http://secure:2" == proxies.for_url("https://10.0.0.1:6443")


def test_names_in_capitals_come_first_and_small_ones_count_too():
    """kubeadm hands on both, in whatever case it found them."""
    assert "http://small" == Proxies({"https_proxy": "http://small"}).for_url("https://a")
    both = {"https_proxy": "http://small", "HTTPS_PROXY": "http://capital"}
    assert "http://capital" == Proxies(both).for_url("https://a")


def test_without_variables_there_is_no_proxy():
    """An empty variable is none, and HTTP_PROXY says nothing about https."""
    assert Proxies({}).for_url("https://a") is None
    assert Proxies({"HTTPS_PROXY": ""}).for_url("https://a") is None
    assert Proxies({"HTTP_PROXY": "http://p"}).for_url("https://a") is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"])
def test_this_machine_is_always_reached_directly(host):
    """Whatever NO_PROXY says."""
    assert Proxies(BOTH).for_url(f"https://{host}:6443") is None


@pytest.mark.parametrize(
    ("no_proxy", "url"),
    [
        ("*", "https://api.example.com"),
        ("10.0.0.0/8", "https://10.1.2.3:6443"),
        ("fd00::/8", "https://[fd00::1]:6443"),
        ("10.1.2.3", "https://10.1.2.3:6443"),
        ("10.1.2.3:6443", "https://10.1.2.3:6443"),
        ("fd00::1", "https://[fd00:0::1]:6443"),
        ("[fd00::1]:6443", "https://[fd00::1]:6443"),
        ("example.com", "https://example.com"),
        ("example.com", "https://api.example.com"),
        (".example.com", "https://api.example.com"),
        ("*.example.com", "https://api.example.com"),
        ("example.com:443", "https://api.example.com"),
        ("other, EXAMPLE.com ,", "https://Api.Example.Com."),
        ("bad/net,example.com", "https://example.com"),
    ],
)
def test_hosts_that_no_proxy_names(no_proxy, url):
    """Networks, addresses, domains and what is below them, with or without a port."""
    assert Proxies({**BOTH, "NO_PROXY": no_proxy}).for_url(url) is None
    assert Proxies({**BOTH, "no_proxy": no_proxy}).for_url(url) is None


@pytest.mark.parametrize(
    ("no_proxy", "url"),
    [
        ("10.0.0.0/8", "https://11.1.2.3"),
        ("10.0.0.0/8", "https://ten.example.com"),
        ("10.1.2.3:6443", "https://10.1.2.3:443"),
        ("10.1.2", "https://10.1.2.3"),
        (".example.com", "https://example.com"),
        ("example.com", "https://notexample.com"),
        ("example.com:80", "https://example.com"),
        ("bad/net", "https://bad"),
        (",", "https://a"),
    ],
)
def test_hosts_that_no_proxy_does_not_name(no_proxy, url):
    """What is only alike goes through the proxy."""
    assert "http://secure:2" == Proxies({**BOTH, "NO_PROXY": no_proxy}).for_url(url)
