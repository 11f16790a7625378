# SPDX-License-Identifier: Apache-2.0
"""The command line follows pflag, not argparse."""

import pytest

from kubeproxy_bpf.config import pflag
from kubeproxy_bpf.config.pflag import Flag, FlagSet
from kubeproxy_bpf.errors import ConfigError

FLAGS = FlagSet(
    [
        Flag("proxy-mode", pflag.STRING, "", ""),
        Flag("cleanup", pflag.BOOL, False, "", "c"),
        Flag("v", pflag.LEVEL, 0, "", "v"),
        Flag("addresses", pflag.STRING_SLICE, ("default",), ""),
        Flag("feature-gates", pflag.MAP_STRING_BOOL, {"Default": True}, ""),
        Flag("vmodule", pflag.VMODULE, (), ""),
        Flag("period", pflag.DURATION, 1.0, ""),
        Flag("bit", pflag.INT32, 14, ""),
        Flag("qps", pflag.FLOAT32, 5.0, ""),
        Flag("bind", pflag.IP, "0.0.0.0", ""),
        Flag("serve", pflag.IP_PORT, "0.0.0.0:1", ""),
        Flag("size", pflag.QUANTITY, "0", ""),
        Flag("version", pflag.VERSION, "false", ""),
        Flag("ports", pflag.PORT_RANGE, (1, 2), ""),
        Flag("old", pflag.INT32, 0, "", deprecated="use --bit"),
    ]
)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--proxy-mode=x"], {"proxy-mode": "x"}),
        (["--proxy_mode", "x"], {"proxy-mode": "x"}),
        (["--proxy-mode", "-x"], {"proxy-mode": "-x"}),
        (["--proxy-mode=a=b_c"], {"proxy-mode": "a=b_c"}),
        (["--proxy-mode="], {"proxy-mode": ""}),
        (["--cleanup"], {"cleanup": True}),
        (["--cleanup=false"], {"cleanup": False}),
        (["--cleanup=T"], {"cleanup": True}),
        (["-v=4"], {"v": 4}),
        (["-v", "4"], {"v": 4}),
        (["-v4"], {"v": 4}),
        (["-c"], {"cleanup": True}),
        (["-cv4"], {"cleanup": True, "v": 4}),
        (["--v=2"], {"v": 2}),
        (["--v=2", "--v=3"], {"v": 3}),
        (["--addresses=a,b", "--addresses", "c"], {"addresses": ("a", "b", "c")}),
        (['--addresses="a,b",c'], {"addresses": ("a,b", "c")}),
        (["--addresses="], {"addresses": ()}),
        (
            ["--feature-gates=A=true", "--feature-gates=B=false, A=0,"],
            {"feature-gates": {"A": False, "B": False}},
        ),
        (["--vmodule=a*=1", "--vmodule=,b=2"], {"vmodule": (("a*", 1), ("b", 2))}),
        (["--period=1m30s"], {"period": 90.0}),
        (["--bit=0x1f"], {"bit": 31}),
        (["--bit=-010"], {"bit": -8}),
        (["--qps=1e2"], {"qps": 100.0}),
        (["--bind=010.0.0.1"], {"bind": "010.0.0.1"}),
        (["--bind="], {"bind": ""}),
        (["--serve=10.0.0.1"], {"serve": "10.0.0.1"}),
        (["--serve=[::]:80"], {"serve": "[::]:80"}),
        (["--serve=::"], {"serve": "::"}),
        (["--size=64Ki"], {"size": "64Ki"}),
        (["--version"], {"version": "true"}),
        (["--version=raw"], {"version": "raw"}),
        (["--version=v1.2.3"], {"version": "v1.2.3"}),
        (["--version=0"], {"version": "false"}),
        (["--ports=10-20"], {"ports": (10, 20)}),
        ([""], {}),
        (["--"], {}),
        (["--", ""], {}),
    ],
)
def test_forms_that_pflag_accepts(argv, expected):
    """Each form gives the value that pflag would give."""
    assert expected == FLAGS.parse(argv)


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--clean"], "unknown flag: --clean"),
        (["--clean=1"], "unknown flag: --clean"),
        (["-x"], "unknown shorthand flag: 'x' in -x"),
        (["-cx"], "unknown shorthand flag: 'x' in -cx"),
        (["--=x"], "bad flag syntax: --=x"),
        (["---v"], "bad flag syntax: ---v"),
        (["--proxy-mode"], "flag needs an argument: --proxy-mode"),
        (["-v"], "flag needs an argument: 'v' in -v"),
        (["--cleanup", "false"], '"kube-proxy" does not take any arguments, got ["false"]'),
        (["-"], '"kube-proxy" does not take any arguments, got ["-"]'),
        (["--", "--v=1"], '"kube-proxy" does not take any arguments, got ["--v=1"]'),
        (
            ["--cleanup=yes"],
            'invalid argument "yes" for "-c, --cleanup" flag: '
            'strconv.ParseBool: parsing "yes": invalid syntax',
        ),
        (
            ["-v=-1"],
            'invalid argument "-1" for "-v, --v" flag: '
            'strconv.ParseUint: parsing "-1": invalid syntax',
        ),
        (
            ["--v=2147483648"],
            'invalid argument "2147483648" for "-v, --v" flag: '
            'strconv.ParseUint: parsing "2147483648": value out of range',
        ),
        (
            ["--bit=08"],
            'invalid argument "08" for "--bit" flag: '
            'strconv.ParseInt: parsing "08": invalid syntax',
        ),
        (
            ["--bit=2147483648"],
            'invalid argument "2147483648" for "--bit" flag: '
            'strconv.ParseInt: parsing "2147483648": value out of range',
        ),
        (
            ["--qps=fast"],
            'invalid argument "fast" for "--qps" flag: '
            'strconv.ParseFloat: parsing "fast": invalid syntax',
        ),
        (
            ["--qps=1e39"],
            'invalid argument "1e39" for "--qps" flag: '
            'strconv.ParseFloat: parsing "1e39": value out of range',
        ),
        (
            ["--period=5"],
            'invalid argument "5" for "--period" flag: time: missing unit in duration "5"',
        ),
        (
            ["--period=5x"],
            'invalid argument "5x" for "--period" flag: time: unknown unit "x" in duration "5x"',
        ),
        (
            ["--period=s"],
            'invalid argument "s" for "--period" flag: time: invalid duration "s"',
        ),
        (
            ["--feature-gates=A"],
            'invalid argument "A" for "--feature-gates" flag: malformed pair, expect string=bool',
        ),
        (
            ["--feature-gates=A=on"],
            'invalid argument "A=on" for "--feature-gates" flag: invalid value of A: on, err: '
            'strconv.ParseBool: parsing "on": invalid syntax',
        ),
        (
            ["--vmodule=a"],
            'invalid argument "a" for "--vmodule" flag: "a" does not have the pattern=N format',
        ),
        (
            ["--vmodule=a=-1"],
            'invalid argument "a=-1" for "--vmodule" flag: parsing verbosity in "a=-1": '
            'strconv.ParseUint: parsing "-1": invalid syntax',
        ),
        (
            ["--bind=host"],
            'invalid argument "host" for "--bind" flag: "host" is not a valid IP address',
        ),
        (
            ["--serve=host"],
            'invalid argument "host" for "--serve" flag: "host" is not in a valid format '
            "(ip or ip:port): address host: missing port in address",
        ),
        (
            ["--serve=h:80"],
            'invalid argument "h:80" for "--serve" flag: "h" is not a valid IP address',
        ),
        (
            ["--serve=1.2.3.4:http"],
            'invalid argument "1.2.3.4:http" for "--serve" flag: "http" is not a valid number',
        ),
        (
            ["--size=much"],
            'invalid argument "much" for "--size" flag: quantities must match the regular '
            "expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            ["--version=1.2"],
            'invalid argument "1.2" for "--version" flag: '
            'strconv.ParseBool: parsing "1.2": invalid syntax',
        ),
    ],
)
def test_forms_that_pflag_refuses(argv, problem):
    """The first thing that does not hold is told in pflag's words."""
    with pytest.raises(ConfigError) as caught:
        FLAGS.parse(argv)

    assert (problem,) == caught.value.problems


def test_a_list_with_an_open_quote_is_refused():
    """Lists are lines of CSV."""
    with pytest.raises(ConfigError, match="parse error on line 1"):
        FLAGS.parse(['--addresses="a'])


def test_a_deprecated_flag_is_told_and_not_in_the_help():
    """It works on; who uses it reads what to use instead."""
    given = FLAGS.parse(["--old=1"])

    assert ["Flag --old has been deprecated, use --bit"] == FLAGS.deprecations(given)
    assert [] == FLAGS.deprecations({})
    assert "--old" not in FLAGS.usage()
    assert "--bit int32" in FLAGS.usage()


def test_every_flag_has_a_text():
    """What /flagz shows: given values, and defaults of the rest, as one would type them."""
    texts = FLAGS.texts(FLAGS.parse(["-v4", "--addresses=a,b", "--period=90s"]))

    assert {
        "proxy-mode": "",
        "cleanup": "false",
        "v": "4",
        "addresses": "[a,b]",
        "feature-gates": "Default=true",
        "vmodule": "",
        "period": "1m30s",
        "bit": "14",
        "qps": "5",
        "bind": "0.0.0.0",
        "serve": "0.0.0.0:1",
        "size": "0",
        "version": "false",
        "ports": "1-2",
        "old": "0",
    } == texts


@pytest.mark.parametrize("argv", [["--proxy-mode=\udcff"], ["--proxy-mode", "a\udcff"], ["\udcff"]])
def test_words_that_are_no_utf8_are_refused(argv):
    """No request could name such a node, and no log a file of this name."""
    with pytest.raises(ConfigError, match="is not UTF-8"):
        FLAGS.parse(argv)
