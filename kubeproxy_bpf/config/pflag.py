# SPDX-License-Identifier: Apache-2.0
"""Command-line parsing by the rules of Go's pflag, which kube-proxy's users rely on.

argparse and click differ from pflag in ways that break existing manifests: a bool never takes the
next argument, ``_`` and ``-`` are equal in names, abbreviations are refused, a value may begin with
a dash, lists append and maps merge. This parser knows flags and texts, nothing of their meaning.
"""

from __future__ import annotations

import re
from typing import Any, Callable, NamedTuple, Sequence

from kubeproxy_bpf.errors import ConfigError

_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TRUE = {"1", "t", "T", "true", "TRUE", "True"}
_FALSE = {"0", "f", "F", "false", "FALSE", "False"}


def parse_bool(text: str) -> bool:
    """The words of Go's strconv.ParseBool."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f'parsing "{text}": invalid syntax')


def parse_int(text: str) -> int:
    """Decimal digits with an optional sign; none of Python's underscores or spaces."""
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise ValueError(f'parsing "{text}": invalid syntax')
    return int(text)


def parse_duration(text: str) -> float:
    """Go's time.ParseDuration ("1h30m", "0"), in seconds."""
    sign, rest = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    parts = _DURATION_PART.findall(rest)
    if not parts or "".join(number + unit for number, unit in parts) != rest:
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * sum(float(number) * _UNIT_S[unit] for number, unit in parts)


def parse_list(text: str) -> tuple[str, ...]:
    """A comma-separated list; the empty text is the empty list."""
    return tuple(text.split(",")) if text else ()


def parse_port_range(text: str) -> tuple[int, int]:
    """``first-last``, both included; whether they are good for anything is not judged."""
    first, dash, last = text.partition("-")
    if not dash:
        raise ValueError(f'"{text}" is not first-last')
    return parse_int(first), parse_int(last)


def parse_bool_map(text: str) -> dict[str, bool]:
    """``name=true,other=false``."""
    result = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, found, value = item.partition("=")
        if not found:
            raise ValueError(f"missing bool value for {name}")
        result[name.strip()] = parse_bool(value.strip())
    return result


class Flag(NamedTuple):
    """One flag: its name, how its text is read, its default, and what help says of it."""

    name: str
    parse: Callable[[str], Any]
    default: Any
    help: str
    short: str = ""
    bare: str | None = None
    """Value when the flag stands without one ("true" for booleans)."""


class FlagSet:
    """A set of flags, and the parsing of an argument vector against it."""

    def __init__(self, flags: Sequence[Flag]) -> None:
        self._by_name = {flag.name: flag for flag in flags}
        self._by_short = {flag.short: flag for flag in flags if flag.short}

    def parse(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return the flags that were given, by name.

        Raises:
            ConfigError: an unknown flag, a bad value, or a positional argument.
        """
        given: dict[str, Any] = {}
        words = list(argv)
        while words:
            word = words.pop(0)
            if word == "--":
                self._refuse_positional(words)
                break
            if not word.startswith("-") or word == "-":
                self._refuse_positional([word])
                continue
            flag, text = self._split(word, words)
            self._set(given, flag, text, word)
        return given

    def defaults(self) -> dict[str, Any]:
        """The default of every flag, by name."""
        return {name: flag.default for name, flag in self._by_name.items()}

    def usage(self) -> str:
        """Help text, one flag a line."""
        rows = []
        for flag in sorted(self._by_name.values()):
            name = f"-{flag.short}, --{flag.name}" if flag.short else f"    --{flag.name}"
            rows.append(f"  {name:<36} {flag.help}")
        return "\n".join(rows)

    def _split(self, word: str, rest: list[str]) -> tuple[Flag, str]:
        body, equals, text = word.lstrip("-").partition("=")
        if word.startswith("--"):
            flag = self._by_name.get(body.replace("_", "-"))
        else:
            flag = self._by_short.get(body)
        if flag is None:
            raise ConfigError([f"unknown flag: {word.partition('=')[0]}"])
        if equals:
            return flag, text
        if flag.bare is not None:
            return flag, flag.bare
        if not rest:
            raise ConfigError([f"flag needs an argument: {word}"])
        return flag, rest.pop(0)

    @staticmethod
    def _set(given: dict[str, Any], flag: Flag, text: str, word: str) -> None:
        try:
            value = flag.parse(text)
        except ValueError as error:
            name = word.partition("=")[0]
            raise ConfigError([f'invalid argument "{text}" for "{name}" flag: {error}']) from None
        before = given.get(flag.name)
        if flag.parse is parse_list and before is not None:
            value = before + value
        elif isinstance(value, dict) and before is not None:
            value = {**before, **value}
        given[flag.name] = value

    @staticmethod
    def _refuse_positional(words: Sequence[str]) -> None:
        # kube-proxy accepts empty arguments and nothing else.
        extra = [word for word in words if word]
        if extra:
            raise ConfigError([f"unknown command or argument: {extra[0]}"])
