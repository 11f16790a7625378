# SPDX-License-Identifier: Apache-2.0
"""The ``kube-proxy`` command: flags to Config, Config to a running proxy, errors to exit codes.

As kube-proxy does: a bad command line or configuration prints the usage and ``Error: ...`` and ends
with 1, before anything is touched; a failure at run time is logged and ends with 1; SIGTERM ends
with 0 and leaves the datapath in place. What is not the daily work (--version, --write-config-to,
--cleanup, --init-only) is done here and ends the process.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any, Callable, Mapping, Sequence

import structlog

from kubeproxy_bpf import log as logging_setup
from kubeproxy_bpf import memory
from kubeproxy_bpf.config.load import FLAGS, Loaded, read
from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.config.version import version_text
from kubeproxy_bpf.errors import ConfigError, KubeProxyError

_log = structlog.get_logger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the proxy until it is told to stop; returns the exit code."""
    try:
        given = FLAGS.parse(sys.argv[1:] if argv is None else argv)
        for line in FLAGS.deprecations(given):
            print(line, file=sys.stderr)
        if text := _asked_for(given):
            # As a program in Go: `| head` ends it without a word.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            print(text)
            return 0
        loaded = read(given)
    except ConfigError as error:
        print(f"{_usage()}\n", file=sys.stderr)
        for problem in error.problems:
            print(f"Error: {problem}", file=sys.stderr)
        return 1
    _start_log(loaded)
    return _reported(lambda: _act(given, loaded.config))


def _asked_for(given: Mapping[str, Any]) -> str:
    """The help or the version, if that is all that is wanted."""
    if given.get("help"):
        return f"kube-proxy: Services by eBPF\n\n{_usage()}"
    return version_text(given.get("version", "false"))


def _start_log(loaded: Loaded) -> None:
    logging_setup.set_up(loaded.config.verbosity, loaded.config.logging_format)
    for note in loaded.notes:
        (_log.warning if note.warn else _log.info)(note.event, **note.fields)


def _act(given: Mapping[str, Any], config: Config) -> int:
    """What the flags ask for, in kube-proxy's order; each is imported late, as it needs much."""
    if path := given.get("write-config-to"):
        from kubeproxy_bpf.config.document import to_yaml

        with open(path, "w", encoding="utf-8") as file:
            file.write(to_yaml(config.document))
        _log.info("configuration_written", path=path)
        return 0
    if given.get("cleanup"):
        from kubeproxy_bpf import cleanup

        return cleanup.run(config)
    if given.get("init-only"):
        from kubeproxy_bpf import init_only

        return init_only.run(config)
    return _run(config)


def _run(config: Config) -> int:
    # The first process of a container ignores what it has no handler for: until the loop has its
    # own, which is a second away, a pod that is deleted would be waited for.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _log.info("mode_served_by_ebpf", mode=config.mode)
    memory.starting()
    # Imported late: --help and --version need none of it.
    from kubeproxy_bpf.app import App

    memory.imported()
    asyncio.run(App(config).run())
    return 0


def _reported(act: Callable[[], int]) -> int:
    """A failure is one line of the log and exit code 1."""
    try:
        return act()
    except (KubeProxyError, OSError) as error:
        _log.error("proxy_failed", error=str(error), kind=type(error).__name__)
        return 1


def _usage() -> str:
    return f"Usage:\n  kube-proxy [flags]\n\nFlags:\n{FLAGS.usage()}"


if __name__ == "__main__":
    sys.exit(main())
