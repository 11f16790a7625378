# SPDX-License-Identifier: Apache-2.0
"""Texts of values as Go writes and reads them: numbers, durations, quantities, addresses, lists.

Flags and configuration files share them. Every ``parse_*`` raises ValueError with the words that
Go's library would use; nothing here knows a flag or a field. Called by ``pflag``, ``document`` and
``validate``.
"""

from __future__ import annotations

import csv
import ipaddress
import math
import re
from typing import NamedTuple

_TRUE = {"1", "t", "T", "true", "TRUE", "True"}
_FALSE = {"0", "f", "F", "false", "FALSE", "False"}
_BASED = re.compile(
    r"[+-]?(0[xX](_?[0-9a-fA-F])+|0[bB](_?[01])+|0[oO]?(_?[0-7])+|0|[1-9](_?[0-9])*)"
)
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity)|nan", re.IGNORECASE)
_QUANTITY = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?\d+)?")
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([^\d.]*)")
_UNIT_NS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_FLOAT32_MAX = 3.4028235677973366e38


def parse_bool(text: str) -> bool:
    """The words of strconv.ParseBool."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def parse_int32(text: str) -> int:
    """strconv.ParseInt with the base by the prefix: 10, 0x0a, 0o12, 012, 0b1010, 1_0."""
    if not _BASED.fullmatch(text):
        raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    digits = text.lstrip("+-").replace("_", "")
    octal = len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()
    value = int(digits, 8 if octal else 0) * (-1 if text.startswith("-") else 1)
    if not -(2**31) <= value < 2**31:
        raise ValueError(f'strconv.ParseInt: parsing "{text}": value out of range')
    return value


def parse_level(text: str) -> int:
    """A log verbosity: strconv.ParseUint of 31 bits, decimal digits alone."""
    if not re.fullmatch(r"[0-9]+", text):
        raise ValueError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    if int(text) >= 2**31:
        raise ValueError(f'strconv.ParseUint: parsing "{text}": value out of range')
    return int(text)


def parse_float32(text: str) -> float:
    """strconv.ParseFloat of 32 bits."""
    if not _FLOAT.fullmatch(text):
        raise ValueError(f'strconv.ParseFloat: parsing "{text}": invalid syntax')
    value = float(text)
    if math.isfinite(value) and abs(value) > _FLOAT32_MAX:
        raise ValueError(f'strconv.ParseFloat: parsing "{text}": value out of range')
    return value


def format_float(value: float) -> str:
    """The shortest text: 5 and not 5.0."""
    return f"{value:g}" if value != int(value) else str(int(value))


def parse_duration(text: str) -> float:
    """time.ParseDuration ("1h30m", "0"), in seconds."""
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    parts = _DURATION_PART.findall(rest)
    if not parts or "".join(number + unit for number, unit in parts) != rest:
        raise ValueError(f'time: invalid duration "{text}"')
    total = 0.0
    for number, unit in parts:
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in _UNIT_NS:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        total += float(number) * _UNIT_NS[unit]
    if total >= 2**63:
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * total / 1e9


def format_duration(seconds: float) -> str:
    """time.Duration's String: 24h0m0s, 1m30s, 250ms, 0s."""
    left = round(abs(seconds) * 1e9)
    sign = "-" if seconds < 0 and left else ""
    if left == 0:
        return "0s"
    for unit in ("ns", "µs", "ms"):
        if left < 1000 * _UNIT_NS[unit]:
            return f"{sign}{_fraction(left, _UNIT_NS[unit])}{unit}"
    hours, left = divmod(left, _UNIT_NS["h"])
    minutes, left = divmod(left, _UNIT_NS["m"])
    text = f"{hours}h" if hours else ""
    text += f"{minutes}m" if hours or minutes else ""
    return f"{sign}{text}{_fraction(left, _UNIT_NS['s'])}s"


def _fraction(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    digits = str(unit + rest)[1:].rstrip("0") if unit > 1 else ""
    return f"{whole}.{digits}" if digits else str(whole)


def parse_quantity(text: str) -> str:
    """A resource quantity (10Mi, 2k); its text is kept."""
    if not _QUANTITY.fullmatch(text):
        raise ValueError(
            "quantities must match the regular expression "
            "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        )
    return text


def is_zero_quantity(text: str) -> bool:
    """Whether nothing is asked for; the number alone decides, whatever its unit."""
    number = re.match(r"[+-]?[\d.]*", text)
    return number is None or not number[0].strip("+-0.")


def parse_list(text: str) -> tuple[str, ...]:
    """One line of comma-separated values, quoted where they hold a comma; empty is no value."""
    if not text:
        return ()
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise ValueError(f"parse error on line 1: {error}") from None
    return tuple(rows[0])


def parse_bool_map(text: str) -> dict[str, bool]:
    """``name=true,other=false``."""
    result = {}
    for item in filter(None, text.split(",")):
        name, found, value = item.partition("=")
        if not found:
            raise ValueError("malformed pair, expect string=bool")
        name, value = name.strip(), value.strip()
        try:
            result[name] = parse_bool(value)
        except ValueError as error:
            raise ValueError(f"invalid value of {name}: {value}, err: {error}") from None
    return result


def format_bool_map(value: dict[str, bool]) -> str:
    """Sorted ``name=true,...``."""
    return ",".join(f"{name}={str(on).lower()}" for name, on in sorted(value.items()))


class VModuleItem(NamedTuple):
    """Verbosity of the source files that a pattern names."""

    file_pattern: str
    verbosity: int


def parse_vmodule(text: str) -> tuple[VModuleItem, ...]:
    """``pattern=N,...``."""
    items = []
    for item in filter(None, text.split(",")):
        pattern, found, level = item.partition("=")
        if not found or not pattern or "=" in level:
            raise ValueError(f'"{item}" does not have the pattern=N format')
        try:
            items.append(VModuleItem(pattern, parse_level(level)))
        except ValueError as error:
            raise ValueError(f'parsing verbosity in "{item}": {error}') from None
    return tuple(items)


def sloppy_ip(text: str) -> str:
    """The address without leading zeros in its decimals, as kube-proxy reads old objects.

    Raises:
        ValueError: it is no address, or has a zone.
    """
    plain = re.sub(r"(?<![0-9a-fA-F])0+(?=\d)", "", text) if "." in text else text
    if "%" in plain:
        raise ValueError(f"{text} has a zone")
    address = ipaddress.ip_address(plain)
    # To Go a v4-mapped address is IPv4.
    return str(getattr(address, "ipv4_mapped", None) or address)


def sloppy_cidr(text: str) -> str:
    """The network of ``address/length``, host bits cleared."""
    address, slash, length = text.partition("/")
    if not slash or not re.fullmatch(r"[0-9]{1,3}", length):
        raise ValueError(f"invalid CIDR address: {text}")
    return str(ipaddress.ip_network(f"{sloppy_ip(address)}/{length}", strict=False))


def split_host_port(text: str) -> tuple[str, str]:
    """net.SplitHostPort: brackets around an IPv6 host are needed, the port may be empty."""
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"address {text}: missing port in address")
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], port
    if ":" in host:
        raise ValueError(f"address {text}: too many colons in address")
    return host, port


def parse_ip(text: str) -> str:
    """An address as a flag; empty says nothing."""
    if text:
        _demand_ip(text)
    return text


def parse_ip_port(text: str) -> str:
    """An address with or without a port as a flag; empty says nothing."""
    if not text or _is_ip(text):
        return text
    try:
        host, port = split_host_port(text)
    except ValueError as error:
        raise ValueError(f'"{text}" is not in a valid format (ip or ip:port): {error}') from None
    _demand_ip(host)
    if not re.fullmatch(r"[0-9]+", port) or int(port) > 65535:
        raise ValueError(f'"{port}" is not a valid number')
    return text


def with_port(address: str, port: int) -> str:
    """A bare address gets the port; all else is left as it is."""
    if not _is_ip(address):
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _demand_ip(text: str) -> None:
    if not _is_ip(text):
        raise ValueError(f'"{text}" is not a valid IP address')


def _is_ip(text: str) -> bool:
    try:
        sloppy_ip(text)
    except ValueError:
        return False
    return True
