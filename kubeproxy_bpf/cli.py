# SPDX-License-Identifier: Apache-2.0
"""The ``kube-proxy`` command: flags to Config, Config to a running proxy, errors to exit codes.

As kube-proxy does: a bad command line prints the usage and ``Error: ...`` and ends with 1; a
failure at run time is logged and ends with 1; SIGTERM ends with 0 and leaves the datapath in place.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Sequence

import structlog

from kubeproxy_bpf import __version__
from kubeproxy_bpf import log as logging_setup
from kubeproxy_bpf import memory
from kubeproxy_bpf.config.load import FLAGS, from_flags
from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.errors import ConfigError, KubeProxyError

_log = structlog.get_logger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the proxy until it is told to stop; returns the exit code."""
    try:
        given = FLAGS.parse(sys.argv[1:] if argv is None else argv)
        if given.get("help"):
            print(f"kube-proxy: Services by eBPF\n\n{_usage()}")
            return 0
        if given.get("version", "false") != "false":
            print(f"kubeproxy-bpf {__version__}")
            return 0
        config = from_flags(given)
    except ConfigError as error:
        print(f"{_usage()}\n", file=sys.stderr)
        for problem in error.problems:
            print(f"Error: {problem}", file=sys.stderr)
        return 1
    logging_setup.set_up(config.verbosity, config.logging_format)
    return _run(config)


def _run(config: Config) -> int:
    memory.starting()
    # Imported late: --help and --version need none of it.
    from kubeproxy_bpf.app import App

    memory.imported()
    try:
        asyncio.run(App(config).run())
    except (KubeProxyError, OSError) as error:
        _log.error("proxy_failed", error=str(error), kind=type(error).__name__)
        return 1
    return 0


def _usage() -> str:
    return f"Usage:\n  kube-proxy [flags]\n\nFlags:\n{FLAGS.usage()}"


if __name__ == "__main__":
    sys.exit(main())
