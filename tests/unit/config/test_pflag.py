# SPDX-License-Identifier: Apache-2.0
"""The command line follows pflag, not argparse."""

import pytest

from kubeproxy_bpf.config import pflag
from kubeproxy_bpf.config.pflag import Flag, FlagSet
from kubeproxy_bpf.errors import ConfigError

FLAGS = FlagSet(
    [
        Flag("proxy-mode", str, "", ""),
        Flag("cleanup", pflag.parse_bool, False, "", "", "true"),
        Flag("v", pflag.parse_int, 0, "", "v"),
        Flag("addresses", pflag.parse_list, (), ""),
        Flag("feature-gates", pflag.parse_bool_map, {}, ""),
        Flag("period", pflag.parse_duration, 0.0, ""),
    ]
)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--proxy-mode=x"], {"proxy-mode": "x"}),
        (["--proxy_mode", "x"], {"proxy-mode": "x"}),
        (["--proxy-mode", "-x"], {"proxy-mode": "-x"}),
        (["--cleanup"], {"cleanup": True}),
        (["--cleanup=false"], {"cleanup": False}),
        (["-v=4"], {"v": 4}),
        (["-v", "4"], {"v": 4}),
        (["--v=2"], {"v": 2}),
        (["--addresses=a,b", "--addresses", "c"], {"addresses": ("a", "b", "c")}),
        (
            ["--feature-gates=A=true", "--feature-gates=B=false,A=0"],
            {"feature-gates": {"A": False, "B": False}},
        ),
        (["--period=1m30s"], {"period": 90.0}),
        ([""], {}),
        (["--"], {}),
    ],
)
def test_forms_that_pflag_accepts(argv, expected):
    """Each form gives the value that pflag would give."""
    assert expected == FLAGS.parse(argv)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--clean"], "unknown flag: --clean"),
        (["--cleanup", "false"], "false"),
        (["--proxy-mode"], "needs an argument"),
        (["-v=1_000"], "invalid argument"),
        (["--cleanup=yes"], "invalid argument"),
        (["--period=5"], "invalid duration"),
        (["--feature-gates=A"], "missing bool value"),
        (["word"], "word"),
        (["-x"], "unknown flag"),
    ],
)
def test_forms_that_pflag_refuses(argv, words):
    """Abbreviations, positional arguments and bad values are refused by name."""
    with pytest.raises(ConfigError) as caught:
        FLAGS.parse(argv)

    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("15m0s", 900), ("-1.5h", -5400), ("250ms", 0.25), ("+2s", 2)]
)
def test_durations_are_those_of_go(text, seconds):
    """Units add up, fractions and signs count."""
    assert seconds == pytest.approx(pflag.parse_duration(text))
