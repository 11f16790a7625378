# SPDX-License-Identifier: Apache-2.0
"""All flags of kube-proxy are in the table, as docs/parity lists them, and docs/flags.md is it."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from kubeproxy_bpf.config import gates, own
from kubeproxy_bpf.config.document import KubeProxyConfiguration, get_field
from kubeproxy_bpf.config.flags import ENVIRONMENT, FIELDS, KUBE_PROXY_FLAGS, REFUSED_FLAGS
from kubeproxy_bpf.config.known import WITHOUT_EFFECT
from kubeproxy_bpf.config.load import FLAGS, load
from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
PARITY = ROOT / "docs" / "parity"
KNOWN = {known.flag.name: known for known in KUBE_PROXY_FLAGS}
OTHER_DEFAULTS = {"iptables-min-sync-period": "0s", "ipvs-min-sync-period": "0s"}
"""Where we differ on purpose; the remarks of docs/flags.md say why."""
READ_HERE = {"config_path", "own_config_path"}
"""Settings that matter to the package of the configuration itself: the files that are watched."""


def rows(name):
    with (PARITY / name).open(encoding="utf-8") as file:
        lines = [line for line in file if not line.startswith("#")]
    return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def flag_names(row):
    return [word.strip(",").removeprefix("--") for word in row["flag"].split() if "--" in word]


FLAG_ROWS = [row for row in rows("flags.tsv") if row["flag"].startswith("--")]


def test_the_table_holds_exactly_the_flags_of_kube_proxy():
    """None is missing and none is invented; our own all begin with bpf-."""
    listed = {name for row in FLAG_ROWS for name in flag_names(row)}

    assert listed == set(KNOWN)
    assert all(flag.name.startswith("bpf-") for flag in FLAGS if flag.name not in KNOWN)


@pytest.mark.parametrize("row", FLAG_ROWS, ids=lambda row: row["flag"])
def test_a_flag_is_as_kube_proxy_has_it(row):
    """Type, default, whether it counts beside a file, and whether it is deprecated."""
    [name] = flag_names(row)
    known = KNOWN[name]
    default = row["default"].split(" (")[0].split(";")[0].strip('"')

    assert known.flag.type.name == row["type"].split(" (")[0]
    assert known.flag.text(known.flag.default) == OTHER_DEFAULTS.get(name, default)
    assert known.beside == row["honored_with_config"].startswith("yes")
    assert bool(known.flag.deprecated) == (row["deprecated"] == "yes")
    assert known.field == row["config_field"].split(" ")[0].strip("-").replace("[]", "")


def test_every_field_has_a_flag_or_a_row_of_its_own():
    """The document has all fields of kube-proxy's, and what becomes of each is written down."""
    told = {known.field for known in KUBE_PROXY_FLAGS} | set(FIELDS)
    document = KubeProxyConfiguration()
    for row in rows("config.tsv"):
        path = row["path"].partition("[]")[0]
        get_field(document, path)
        if path not in ("apiVersion", "kind"):
            assert path in told, path


def fields_of(kind, path=""):
    for field in msgspec.structs.fields(kind):
        default = None
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        if isinstance(default, msgspec.Struct):
            yield from fields_of(type(default), f"{path}{field.encode_name}.")
        else:
            yield f"{path}{field.encode_name}"


def test_the_document_has_no_field_that_kube_proxy_has_not():
    """What we would invent here, kube-proxy would refuse."""
    listed = {row["path"].partition("[]")[0] for row in rows("config.tsv")}

    assert listed == set(fields_of(KubeProxyConfiguration))


def test_what_has_no_effect_says_why():
    """A status without a reason helps nobody."""
    assert all(known.note for known in KUBE_PROXY_FLAGS if known.status == WITHOUT_EFFECT)
    assert all(why for _, why in FIELDS.values())


@pytest.mark.parametrize("name", [name for names in REFUSED_FLAGS.values() for name in names])
def test_flags_of_other_builds_are_unknown(name):
    """As to kube-proxy 1.36 on Linux."""
    absent = " ".join(row["flag"] for row in rows("flags.tsv") if row["flag"].startswith("("))
    assert f"--{name}" in absent
    with pytest.raises(ConfigError, match=f"unknown flag: --{name}$"):
        load([f"--{name}=x"])


def test_variables_of_the_environment_are_told():
    """All that kube-proxy reads stand in the table."""
    listed = " ".join(row["flag"] for row in rows("flags.tsv") if row["flag"].startswith("(env)"))
    names = listed.replace("(env)", "").replace(",", "").split()

    assert set(names) == set(ENVIRONMENT)


@pytest.mark.parametrize("row", rows("features.tsv"), ids=lambda row: row["gate"])
def test_gates_of_the_table_are_known(row):
    """By name, by lock and, where it means something, by default."""
    for name in row["gate"].split(", "):
        usual = row["default"] == "true"
        assert [] == gates.problems_of({name: usual})
        if row["locked"].startswith("yes"):
            assert gates.problems_of({name: not usual})
        elif row["locked"] == "no":
            assert [] == gates.problems_of({name: not usual})
        if name in gates.MEANINGFUL:
            assert usual == gates.MEANINGFUL[name]


def test_flags_of_our_own_have_a_field_each():
    """Different ones, so that the file can hold them all."""
    fields = [own.field_of(flag) for flag in own.SETTINGS]

    assert len(set(fields)) == len(fields)
    assert "maxFlows" in fields


def test_the_page_of_flags_is_up_to_date():
    """docs/flags.md is what the tables give now."""
    done = subprocess.run(
        [sys.executable, "tools/gen_flags.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )

    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize("field", Config.__struct_fields__)
def test_every_setting_is_read_by_somebody(field):
    """A flag is implemented only if something asks for what it says."""
    package = ROOT / "kubeproxy_bpf"
    sources = (path for path in package.rglob("*.py") if path.parent != package / "config")
    asked = re.compile(rf"config\.{field}\b")

    assert any(asked.search(path.read_text()) for path in sources) or field in READ_HERE
