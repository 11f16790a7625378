# SPDX-License-Identifier: Apache-2.0
"""Command-line parsing by the rules of Go's pflag, which kube-proxy's users rely on.

argparse and click differ from pflag in ways that break existing manifests: a bool never takes the
next argument, ``_`` and ``-`` are equal in names, abbreviations are refused, a value may begin with
a dash, lists append and maps merge. This parser knows flags and texts, nothing of their meaning.
"""

from __future__ import annotations

from typing import Any, Callable, NamedTuple, Sequence

from kubeproxy_bpf.config import gotext
from kubeproxy_bpf.errors import ConfigError


class FlagType(NamedTuple):
    """How the text of a flag is read and written."""

    name: str
    parse: Callable[[str], Any]
    format: Callable[[Any], str] = str
    bare: str | None = None
    """Value when the flag stands without one ("true" for booleans)."""
    join: Callable[[Any, Any], Any] = lambda before, value: value
    """What a flag given twice means; the last one counts unless said otherwise."""


def parse_port_range(text: str) -> tuple[int, int]:
    """``first-last``, both included; whether they are good for anything is not judged."""
    first, dash, last = text.partition("-")
    if not dash:
        raise ValueError(f'"{text}" is not first-last')
    return gotext.parse_int32(first), gotext.parse_int32(last)


def _parse_version(text: str) -> str:
    if text.startswith("v") or text == "raw":
        return text
    return str(gotext.parse_bool(text)).lower()


def _format_bool(value: bool) -> str:
    return str(value).lower()


BOOL = FlagType("bool", gotext.parse_bool, _format_bool, "true")
INT32 = FlagType("int32", gotext.parse_int32)
FLOAT32 = FlagType("float32", gotext.parse_float32, gotext.format_float)
LEVEL = FlagType("Level", gotext.parse_level)
STRING = FlagType("string", str)
DURATION = FlagType("duration", gotext.parse_duration, gotext.format_duration)
QUANTITY = FlagType("quantity", gotext.parse_quantity)
IP = FlagType("ip", gotext.parse_ip)
IP_PORT = FlagType("ipport", gotext.parse_ip_port)
PROXY_MODE = FlagType("ProxyMode", str)
LOCAL_MODE = FlagType("LocalMode", str)
VERSION = FlagType("version", _parse_version, str, "true")
PORT_RANGE = FlagType("portRange", parse_port_range, lambda ports: f"{ports[0]}-{ports[1]}")
STRING_SLICE = FlagType(
    "stringSlice",
    gotext.parse_list,
    lambda items: f"[{','.join(items)}]",
    join=lambda before, value: before + value,
)
MAP_STRING_BOOL = FlagType(
    "mapStringBool",
    gotext.parse_bool_map,
    gotext.format_bool_map,
    join=lambda before, value: {**before, **value},
)
VMODULE = FlagType(
    "pattern=N,...",
    gotext.parse_vmodule,
    lambda items: ",".join(f"{pattern}={level}" for pattern, level in items),
    join=lambda before, value: before + value,
)


class Flag(NamedTuple):
    """One flag: its name, its type, its default, and what help says of it."""

    name: str
    type: FlagType
    default: Any
    help: str
    short: str = ""
    deprecated: str = ""
    """What to use instead; empty: not deprecated."""

    @property
    def full_name(self) -> str:
        """As pflag calls it in its errors."""
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"

    def text(self, value: Any) -> str:
        """The value as the command line would have it."""
        return self.type.format(value)


class FlagSet:
    """A set of flags, and the parsing of an argument vector against it."""

    def __init__(self, flags: Sequence[Flag], command: str = "kube-proxy") -> None:
        self._by_name = {flag.name: flag for flag in flags}
        self._by_short = {flag.short: flag for flag in flags if flag.short}
        self._command = command

    def parse(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return the flags that were given, by name.

        Raises:
            ConfigError: an unknown flag, a bad value, or a positional argument.
        """
        given: dict[str, Any] = {}
        positional: list[str] = []
        words = list(argv)
        _expect_utf8(words)
        while words:
            word = words.pop(0)
            if word == "--":
                positional += words
                break
            if word.startswith("--"):
                self._long(given, word, words)
            elif word.startswith("-") and word != "-":
                self._shorts(given, word, words)
            else:
                positional.append(word)
        # kube-proxy accepts empty arguments and nothing else.
        if any(positional):
            quoted = " ".join(f'"{word}"' for word in positional)
            raise ConfigError([f'"{self._command}" does not take any arguments, got [{quoted}]'])
        return given

    def __iter__(self) -> Any:
        return iter(self._by_name.values())

    def defaults(self) -> dict[str, Any]:
        """The default of every flag, by name."""
        return {name: flag.default for name, flag in self._by_name.items()}

    def texts(self, given: dict[str, Any]) -> dict[str, str]:
        """Every flag and the text of its value, given or default."""
        return {flag.name: flag.text(given.get(flag.name, flag.default)) for flag in self}

    def deprecations(self, given: dict[str, Any]) -> list[str]:
        """One line per deprecated flag that was given, as pflag prints them."""
        flags = [flag for flag in self if flag.deprecated and flag.name in given]
        return [f"Flag --{flag.name} has been deprecated, {flag.deprecated}" for flag in flags]

    def usage(self) -> str:
        """Help text, one flag a line."""
        rows = []
        for flag in sorted(self._by_name.values(), key=lambda flag: flag.name):
            if flag.deprecated:
                continue
            name = flag.full_name if flag.short else f"    {flag.full_name}"
            kind = "" if flag.type.bare else f" {flag.type.name}"
            default = flag.text(flag.default)
            shown = f" (default {default})" if default not in ("", "0", "0s", "false", "[]") else ""
            rows.append(f"  {name + kind:<50} {flag.help}{shown}")
        return "\n".join(rows)

    def _long(self, given: dict[str, Any], word: str, rest: list[str]) -> None:
        name, equals, text = word[2:].partition("=")
        if not name or name.startswith("-"):
            raise ConfigError([f"bad flag syntax: {word}"])
        flag = self._by_name.get(name.replace("_", "-"))
        if flag is None:
            raise ConfigError([f"unknown flag: --{name}"])
        if not equals:
            text = self._value(flag, rest, f"--{name}")
        self._set(given, flag, text)

    def _shorts(self, given: dict[str, Any], word: str, rest: list[str]) -> None:
        """``-v4``, ``-v=4``, ``-v 4``; letters that need no value may stand together."""
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            flag = self._by_short.get(letter)
            if flag is None:
                raise ConfigError([f"unknown shorthand flag: '{letter}' in {word}"])
            if len(letters) > 1 and letters.startswith("="):
                return self._set(given, flag, letters[1:])
            if flag.type.bare is not None:
                self._set(given, flag, flag.type.bare)
                continue
            text = letters or self._value(flag, rest, f"'{letter}' in {word}")
            return self._set(given, flag, text)
        return None

    @staticmethod
    def _value(flag: Flag, rest: list[str], where: str) -> str:
        if flag.type.bare is not None:
            return flag.type.bare
        if not rest:
            raise ConfigError([f"flag needs an argument: {where}"])
        return rest.pop(0)

    @staticmethod
    def _set(given: dict[str, Any], flag: Flag, text: str) -> None:
        try:
            value = flag.type.parse(text)
        except ValueError as error:
            problem = f'invalid argument "{text}" for "{flag.full_name}" flag: {error}'
            raise ConfigError([problem]) from None
        if flag.name in given:
            value = flag.type.join(given[flag.name], value)
        given[flag.name] = value


def _expect_utf8(words: Sequence[str]) -> None:
    """What is none would fail later, in each request that names it."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise ConfigError([f"{word!r} is not UTF-8"]) from None
