# SPDX-License-Identifier: Apache-2.0
"""Whatever is written on a command line or in a file: a configuration, or a list of problems."""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_bpf.config.decode import read_document
from kubeproxy_bpf.config.document import KubeProxyConfiguration, to_plain, to_yaml
from kubeproxy_bpf.config.load import FLAGS, load
from kubeproxy_bpf.errors import ConfigError
from tests.examples import bounded

HEAD = {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration"}
TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [
            "",
            "0",
            "-1",
            "1s",
            "-1h",
            "1m30s",
            "10.0.0.0/8",
            "fd00::/8",
            "::",
            "010.0.0.1",
            "1.2.3.4",
        ]
        + [
            "iptables",
            "ipvs",
            "nftables",
            "primary",
            "true",
            "text",
            "json",
            "10Ki",
            "a=1",
            "=",
            ",",
        ]
        + ["BridgeInterface", "ClusterCIDR", "1.35", "0.0.0.0:1", "[::]:70000", "1-2", "maglev"]
    ),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=5,
)

NAMES = [flag.name for flag in FLAGS if flag.name not in ("config", "bpf-config")]


def some_of(document: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Documents with known fields and any values in them, or sections of their own kind."""
    fields = {
        name: st.one_of(VALUES, some_of(value)) if isinstance(value, dict) and value else VALUES
        for name, value in document.items()
        if name not in HEAD
    }
    return st.fixed_dictionaries({}, optional=fields)


FULL = {**to_plain(KubeProxyConfiguration()), "featureGates": {}, "windowsRunAsService": False}
FULL["logging"]["vmodule"] = []


@bounded(100)
@given(
    st.lists(
        st.one_of(
            TEXTS,
            st.builds(lambda name, text: f"--{name}={text}", st.sampled_from(NAMES), TEXTS),
            st.builds(lambda text: f"-{text}", TEXTS),
        ),
        max_size=4,
    )
)
def test_any_command_line_gives_a_configuration_or_problems(argv: list[str]) -> None:
    """Nothing else is raised, and problems are texts of one line."""
    # A file that is named would be read.
    argv = [word for word in argv if "config" not in word]
    try:
        load(argv)
    except ConfigError as error:
        assert error.problems
        assert all(isinstance(problem, str) and problem for problem in error.problems)


def likely(value: Any) -> st.SearchStrategy[Any]:
    """Values of a field's own type, which mostly hold."""
    if isinstance(value, dict) and value:
        chosen = st.sets(st.sampled_from(sorted(value)), max_size=3)
        return chosen.flatmap(
            lambda names: st.fixed_dictionaries({name: likely(value[name]) for name in names})
        )
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        return st.integers(0, 40)
    if value == "0s":
        return st.sampled_from(["0s", "1s", "1m30s", "250ms", "1h0.5s", "1ns"])
    if isinstance(value, str):
        return TEXTS
    return st.sampled_from([None, 5, True, ["10.0.0.0/8"], ["primary"], [], "1s"])


@bounded(100)
@given(st.one_of(some_of(FULL), likely(FULL).map(lambda content: {**content, **HEAD})))
def test_any_file_gives_a_configuration_or_problems(content: dict[str, Any]) -> None:
    """What is accepted is written, read again and means the same."""
    with tempfile.TemporaryDirectory() as directory:
        first, second = Path(directory, "first"), Path(directory, "second")
        first.write_text(yaml.safe_dump({**HEAD, **content}), encoding="utf-8")
        try:
            config = load([f"--config={first}"])
        except ConfigError as error:
            assert error.problems
            return
        second.write_text(to_yaml(config.document), encoding="utf-8")
        again = load([f"--config={second}"])
    assert config.document == again.document


@bounded(100)
@given(st.text(alphabet="{}[]:,'\"&*!|>-#%@`~ \n\taé0\x00", max_size=30))
def test_any_text_is_a_document_or_a_problem(text: str) -> None:
    """However broken the YAML or JSON is."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "config.conf")
        path.write_text(text, encoding="utf-8")
        try:
            read_document(str(path))
        except ConfigError as error:
            assert error.problems


@bounded(50)
@given(some_of(FULL))
def test_json_and_yaml_mean_the_same(content: dict[str, Any]) -> None:
    """The same document, and the same problems."""
    outcomes = []
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "config.conf")
        for write in (json.dumps, partial(yaml.safe_dump, sort_keys=False)):
            path.write_text(write({**HEAD, **content}), encoding="utf-8")
            try:
                outcomes.append(repr(read_document(str(path))))
            except ConfigError as error:
                outcomes.append(repr(error.problems))
    assert outcomes[0] == outcomes[1]
