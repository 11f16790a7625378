# SPDX-License-Identifier: Apache-2.0
"""Which HTTP proxy leads to the API server, by the variables that Go's clients honour.

kubeadm hands the variables of its own environment on to its DaemonSet, and their NO_PROXY usually
names the cluster's networks. aiohttp knows neither networks nor ports there, so it would send
requests to a proxy that are not meant for it. Read once at the start, as Go does. Called by
``client``.
"""

from __future__ import annotations

import ipaddress
from typing import Callable, Mapping
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Matcher = Callable[[str, _Address | None, int], bool]


class Proxies:
    """The proxies of an environment, and the hosts that are reached without."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._by_scheme = {
            scheme: _with_scheme(_either(environment, f"{scheme}_proxy")) for scheme in _PORTS
        }
        words = _either(environment, "no_proxy").split(",")
        self._direct = [_matcher(word.strip().lower()) for word in words if word.strip()]

    def for_url(self, url: str) -> str | None:
        """The proxy for requests to a URL; None: there is none."""
        parts = urlsplit(url)
        proxy = self._by_scheme.get(parts.scheme)
        if not proxy or self._is_direct(parts.hostname or "", parts.port or _PORTS[parts.scheme]):
            return None
        return proxy

    def _is_direct(self, host: str, port: int) -> bool:
        host = host.rstrip(".")
        address = _address(host)
        if host == "localhost" or (address is not None and address.is_loopback):
            return True
        return any(matches(host, address, port) for matches in self._direct)


def _either(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name.upper()) or environment.get(name) or ""


def _with_scheme(proxy: str) -> str:
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _address(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _matcher(word: str) -> _Matcher:
    """One word of NO_PROXY: ``*``, a network, an address or a domain, the latter with a port."""
    if word == "*":
        return lambda host, address, port: True
    if "/" in word:
        return _network(word)
    name, wanted = _split_port(word)
    if (only := _address(name)) is not None:
        return lambda host, address, port: address == only and wanted in (0, port)
    name = name.removeprefix("*")
    # ``.example.com`` means what is below, ``example.com`` the host itself too.
    below, exact = f".{name.lstrip('.')}", name
    return lambda host, address, port: (
        (host.endswith(below) or host == exact) and wanted in (0, port)
    )


def _network(word: str) -> _Matcher:
    try:
        network = ipaddress.ip_network(word, strict=False)
    except ValueError:
        return lambda host, address, port: False
    return lambda host, address, port: address is not None and address in network


def _split_port(word: str) -> tuple[str, int]:
    """Host and port; port 0 where there is none. A bare IPv6 address has many colons and none."""
    host, colon, port = word.rpartition(":")
    if colon and port.isdecimal() and (":" not in host or host.endswith("]")):
        return host.strip("[]"), int(port)
    return word.strip("[]"), 0
