# SPDX-License-Identifier: Apache-2.0
"""Configuration files as plain mappings: YAML or JSON, with duplicate keys noticed.

Knows no field. Called by ``decode`` and ``own``.
"""

from __future__ import annotations

import json
import re
from typing import Any, Hashable, NamedTuple

import yaml

from kubeproxy_bpf.config.bounds import check_yaml, read_bounded
from kubeproxy_bpf.errors import ConfigError
from kubeproxy_bpf.excerpt import excerpt

_LARGEST_BITS = 1000
_NO_SUCH_VALUE = (ValueError, TypeError, LookupError, AttributeError)
"""What constructors of PyYAML raise for a tag whose value is no such thing (``!!timestamp x``)."""


class Mapping(NamedTuple):
    """A document, and what was written twice in it; the last one counts."""

    content: dict[str, Any]
    duplicates: list[str]


class _Loader(yaml.CSafeLoader):
    """YAML as the Go reader has it: keys given twice are noticed, dates are texts."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.duplicates: list[str] = []

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                line = key.start_mark.line + 1
                self.duplicates.append(f'line {line}: key "{key.value}" already set in map')
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except _NO_SUCH_VALUE:
            kind = node.tag.rpartition(":")[2]
            raise _constructor_error(f"not a valid {kind}", node) from None
        if isinstance(value, int) and value.bit_length() > _LARGEST_BITS:
            # Python would not even print it.
            raise _constructor_error("the number is too large", node)
        return value


def _constructor_error(problem: str, node: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read_mapping(path: str) -> Mapping:
    """Read the one document of a file; nulls are left out, as they say nothing.

    Raises:
        ConfigError: it cannot be read, or is no object.
    """
    try:
        content, duplicates = _parse(read_bounded(path))
        plain = _plain(content)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError([f"{path}: {excerpt(_told(error))}"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: is nested too deeply"]) from None
    if not isinstance(plain, dict):
        raise ConfigError([f"{path}: is not an object"])
    return Mapping(plain, duplicates)


def _told(error: Exception) -> str:
    """In one line, with the place first."""
    text = " ".join(str(error).split())
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        text = ", ".join(filter(None, (error.context, error.problem)))
        return f"line {mark.line + 1}, column {mark.column + 1}: {text}"
    return text


def _parse(text: str) -> tuple[Any, list[str]]:
    if text.lstrip().startswith("{"):
        try:
            return _parse_json(text)
        except (ValueError, RecursionError):
            # A YAML document may begin with a brace too.
            pass
    check_yaml(text)
    loader = _Loader(text)
    try:
        # As Go's reader: the first document counts, whatever follows it.
        return loader.get_data(), loader.duplicates
    finally:
        loader.dispose()


def _parse_json(text: str) -> tuple[Any, list[str]]:
    duplicates: list[str] = []

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                duplicates.append(f'key "{key}" already set in map')
            result[key] = value
        return result

    return json.loads(text, object_pairs_hook=mapping), duplicates


def _plain(value: Any) -> Any:
    """kubeadm writes every field, unset ones as null; to JSON 10.0 is the number 10."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        _expect_characters(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    return value


def _expect_characters(text: str) -> None:
    """JSON and YAML can write what no path and no file can hold."""
    if "\0" in text:
        raise ValueError(f"{text!r} holds a NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{text!r} holds half a surrogate pair, which is no character") from None
