# SPDX-License-Identifier: Apache-2.0
"""Files and flags that nobody would write: a configuration or problems, and soon."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_bpf.config import own
from kubeproxy_bpf.config.bounds import DEEPEST, LARGEST_BYTES, MOST_VALUES
from kubeproxy_bpf.config.load import FLAGS, load
from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.config.text import read_mapping
from kubeproxy_bpf.errors import ConfigError
from tests.examples import bounded
from tests.property.api_objects import ANYTHING, NO_ADDRESSES, NUMBERS, Json, spoiled

KUBEADM = Path("tests/unit/config/data/kubeadm-config.conf").read_text(encoding="utf-8")
OWN_HEAD = {"apiVersion": own.API_VERSION, "kind": own.KIND}
LONGEST_PROBLEM = 1000

PIECES = st.sampled_from(
    [
        *("&a ", "*a", "<<: *a\n", "!!python/object:os.system ", "!!timestamp x", "!!set {a}"),
        *("---\n", "...\n", "%YAML 1.2\n", "\ufeff", "\r\n", "\t", "\0", "\x85", "\u2028"),
        *("? ", ": ", "- ", "[", "]", "{", "}", "|\n", ">-\n", '"', "'", "#", "@", "`", "!", "%"),
        *("9" * 5000, "0x" + "f" * 9000, "1e999", ".nan", ".inf", "0o17", "1_000", "~", "null"),
        *("\\ud800", "\\x00", "{" * 200, "[" * 5000, "- " * 3000, "key: " * 5, "a" * 100_000),
        *("metricsBindAddress: \n", "conntrack:\n  min: -1\n", "mode: [ipvs]\n", "portRange: 1\n"),
    ]
)
ODD_BYTES = st.one_of(PIECES.map(str.encode), st.binary(max_size=8), st.sampled_from([b"\xff\xfe"]))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good file with parts cut out and odd ones put in."""
    content = KUBEADM.encode()
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        until = min(len(content), at + draw(st.sampled_from([0, 0, 1, 5, 200])))
        content = content[:at] + draw(ODD_BYTES) + content[until:]
    return content


def outcome(*argv: str) -> Config | ConfigError:
    """What becomes of a command line; everything else that is raised fails the test."""
    try:
        return load(argv)
    except ConfigError as error:
        assert error.problems
        for problem in error.problems:
            assert problem and len(problem) < LONGEST_PROBLEM, problem[:200]
            # It is printed.
            problem.encode("utf-8", "backslashreplace")
        return error


def with_file(content: bytes, flag: str = "--config") -> Config | ConfigError:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "config.conf")
        path.write_bytes(content)
        return outcome(f"{flag}={path}")


@bounded(300)
@given(damaged())
def test_a_damaged_file_is_a_configuration_or_problems(content: bytes) -> None:
    """Cut, mixed up, in any encoding, with any YAML in it."""
    with_file(content)


@bounded(100)
@given(spoiled(st.just(yaml.safe_load(KUBEADM)), 4), st.sampled_from(["json", "yaml"]))
def test_a_spoiled_document_names_the_field(document: Json, form: str) -> None:
    """Any value of any type in any field; what is wrong is said with the field's name."""
    if form == "json":
        text = json.dumps(document)
    else:
        text = yaml.dump(document, Dumper=yaml.SafeDumper, allow_unicode=False)
    found = with_file(text.encode("utf-8", "surrogatepass"))
    if isinstance(found, Config):
        json.dumps(found.document).encode()


OWN_FIELDS = [own.field_of(flag) for flag in own.SETTINGS]


@bounded(100)
@given(st.dictionaries(st.text(max_size=12), ANYTHING, max_size=3), st.data())
def test_any_file_of_our_own_settings(document: dict[str, Any], data: Any) -> None:
    """The same for KubeProxyBpfConfiguration."""
    head = {} if data.draw(st.booleans()) else OWN_HEAD
    names = data.draw(st.lists(st.sampled_from(OWN_FIELDS), max_size=4))
    content = {**head, **document, **{name: data.draw(ANYTHING) for name in names}}
    text = json.dumps(content)
    with_file(text.encode(), "--bpf-config")


VALUES = st.one_of(
    st.sampled_from(
        [*NO_ADDRESSES, "", "=", "0", "-0", "1e9", "NaN", "0x10", "1s", "-1s", "9" * 400, "∞"]
        + ["1.5.", "true", "TRUE", "0.0.0.0:99999", "[::1", "::1]:1", ":", "10.0.0.0/8,", "a=b,c"]
        + ["--config", "-", "--", "h" * 70_000, "é", "\udcff", "10Ki", "1h" * 500, "../../etc"]
    ),
    st.sampled_from(NUMBERS).map(str),
    st.text(max_size=12),
)
NAMES = st.one_of(
    st.sampled_from([flag.name for flag in FLAGS if flag.name not in ("config", "bpf-config")]),
    st.sampled_from(["", "nosuch", "v", "V", "config-", "é", "bpf_map_sizes", "=", "-"]),
)
WORDS = st.one_of(
    st.builds(lambda name, value: [f"--{name}={value}"], NAMES, VALUES),
    st.builds(lambda name, value: [f"--{name}", value], NAMES, VALUES),
    st.builds(lambda name: [f"--{name}"], NAMES),
    st.builds(lambda name: [f"--{name}="], NAMES),
    VALUES.map(lambda value: [f"-{value}"]),
    VALUES.map(lambda value: [value]),
)


@bounded(300)
@given(st.lists(WORDS, max_size=3))
def test_any_command_line(words: list[list[str]]) -> None:
    """Every flag with every odd value, without one, and flags that there are not."""
    argv = [word for some in words for word in some]
    if not any(word.lstrip("-").startswith(("config", "bpf-config")) for word in argv):
        try:
            load(argv)
        except ConfigError as error:
            assert error.problems and all(error.problems)


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, f"more than {MOST_VALUES} values"),
        (MERGES, f"more than {MOST_VALUES} values"),
        ("a: &a [*a]", "line 1: an alias has no anchor before it"),
        ("a:\n  b: *nobody", "line 2: an alias"),
        ("- " * 100_000, f"nested more than {DEEPEST} levels"),
        ("[" * 100_000, f"nested more than {DEEPEST} levels"),
        ('{"a":' * 100_000, f"nested more than {DEEPEST} levels"),
        ("a: !!python/object/apply:os.system [id]", "line 1, column 4: could not determine"),
        ("a: 1\nb: !!timestamp x", "line 2, column 4: not a valid timestamp"),
        ("a: 0x" + "f" * 100_000, "line 1, column 4: the number is too large"),
        ("a: " + "9" * 100_000, "line 1, column 4: not a valid int"),
        ('{"a": "\\ud800"}', "half a surrogate pair"),
        ('a: "/var\\0/lib"', "'/var\\x00/lib' holds a NUL"),
        ("a: " + "x" * LARGEST_BYTES, f"larger than {LARGEST_BYTES} bytes"),
        ("\0", "control characters are not allowed"),
        ("a: [1", "line 2, column 1: while parsing a flow sequence"),
        ("", "is not an object"),
        ("[]", "is not an object"),
    ],
)
def test_what_would_not_end_is_refused_at_once(tmp_path: Path, text: str, said: str) -> None:
    """Bombs, depths and lengths; each with its place where it has one."""
    path = tmp_path / "config.conf"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        read_mapping(str(path))
    (problem,) = error.value.problems
    assert said in problem and problem.startswith(str(path))
    assert len(problem) < LONGEST_PROBLEM


@pytest.mark.parametrize("text", ["a: 1", "\ufeffa: 1", "a: 1\r\n", "a: &x 1", "--- {a: 1}\n---\n"])
def test_what_is_merely_unusual_is_read(tmp_path: Path, text: str) -> None:
    """A byte order mark, line ends of Windows, anchors, and more documents than one."""
    path = tmp_path / "config.conf"
    path.write_text(text, encoding="utf-8", newline="")
    assert read_mapping(str(path)).content == {"a": 1}


@pytest.mark.parametrize("path", ["/dev/zero", "/", "/proc/self/mem", "/nowhere", ""])
def test_what_is_no_file_is_refused(path: str) -> None:
    """A device without an end, a directory, nothing at all."""
    with pytest.raises(ConfigError):
        read_mapping(path)


def test_the_process_says_so_and_ends_with_one(tmp_path: Path) -> None:
    """As kube-proxy: usage, an error with file and place, status 1, no traceback."""
    path = tmp_path / "config.conf"
    path.write_text("[" * 100_000)
    command = [sys.executable, "-m", "kubeproxy_bpf", f"--config={path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"Error: {path}: line 1: is nested more than" in done.stderr
