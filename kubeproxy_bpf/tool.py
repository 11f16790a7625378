# SPDX-License-Identifier: Apache-2.0
"""The ``kubeproxy-bpf`` command: flags, exit codes, one sentence per failure.

What the commands do is elsewhere (``sandbox.commands``). Exit codes: 0 done, 1 failed for a reason
that is told in one sentence, 2 wrong usage, 130 and 143 interrupted and cleaned up.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn, Sequence

from kubeproxy_bpf.errors import KubeProxyError
from kubeproxy_bpf.sandbox import commands
from kubeproxy_bpf.sandbox.layout import TOPOLOGIES

_INTERRUPTED = 130
_TERMINATED = 143
_BROKEN_PIPE = 141


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="kubeproxy-bpf", description="Tools around the eBPF kube-proxy."
    )
    parts = top.add_subparsers(required=True, metavar="COMMAND")
    sandbox = parts.add_parser(
        "sandbox",
        help="a small cluster on this machine: namespaces, an API server, real proxies",
        description="Two nodes with pods and an outside client, on one kernel. Needs root.",
    )
    actions = sandbox.add_subparsers(required=True, metavar="ACTION")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default="kpb", help="name of the sandbox (default: %(default)s)")
    shaped = argparse.ArgumentParser(add_help=False)
    shaped.add_argument(
        "--topology",
        choices=TOPOLOGIES,
        default="routed",
        help="how pods hang on their node (default: %(default)s)",
    )
    shaped.add_argument(
        "--proxy-command",
        default="",
        metavar="CMD",
        help="run this instead of the installed kube-proxy; the usual flags are appended",
    )
    _add_building(actions, named, shaped)
    _add_using(actions, named)
    return top


def _add_building(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    named: argparse.ArgumentParser,
    shaped: argparse.ArgumentParser,
) -> None:
    up = actions.add_parser("up", parents=[named, shaped], help="build and start it")
    up.add_argument("--no-proxy", action="store_true", help="leave out the proxies")
    up.add_argument(
        "-f", "--filename", type=Path, action="append", default=[], help="manifests to apply"
    )
    up.set_defaults(run=commands.up)
    down = actions.add_parser("down", parents=[named], help="remove it, whole or half built")
    down.set_defaults(run=commands.down)
    demo = actions.add_parser("demo", parents=[shaped], help="show the proxy at work")
    demo.add_argument("--name", default="kpb-demo", help="name of the sandbox for the demo")
    demo.set_defaults(run=commands.demo)


def _add_using(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], named: argparse.ArgumentParser
) -> None:
    status = actions.add_parser("status", parents=[named], help="places, processes, Services")
    status.set_defaults(run=commands.status)
    execute = actions.add_parser(
        "exec", parents=[named], help="run a program in a node, a pod or the client"
    )
    execute.add_argument("place", help="net, node1, node2, client or a pod")
    execute.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD ...")
    execute.set_defaults(run=commands.execute)
    apply = actions.add_parser("apply", parents=[named], help="post manifests to its API server")
    apply.add_argument(
        "-f", "--filename", type=Path, action="append", required=True, help="file or directory"
    )
    apply.set_defaults(run=commands.apply)
    scale = actions.add_parser("scale", parents=[named], help="let an app have so many pods")
    scale.add_argument("app")
    scale.add_argument("replicas", type=int)
    scale.set_defaults(run=commands.scale)
    restart = actions.add_parser(
        "restart", parents=[named], help="end the proxy of a node, if it runs, and start one"
    )
    restart.add_argument("node")
    restart.add_argument("--proxy-command", default="", metavar="CMD", help="as for up")
    restart.set_defaults(run=commands.restart)


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    # As an exception, so that a half-built sandbox takes itself down on the way out.
    raise SystemExit(_TERMINATED)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except KubeProxyError as error:
        print(f"kubeproxy-bpf: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough (`| head`), and what is left must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE


if __name__ == "__main__":
    sys.exit(main())
