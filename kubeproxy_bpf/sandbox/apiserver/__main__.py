# SPDX-License-Identifier: Apache-2.0
"""``python -m kubeproxy_bpf.sandbox.apiserver``: the embedded API server as a process.

It listens in the network namespace that it is started in, says where (on standard output,
``--port-file``, ``--ready-fd``), and stops on SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import signal
import ssl
import sys
from pathlib import Path

from .bulk import Shape, fill
from .controller import SliceController
from .front import Options
from .server import DEFAULT_CIDRS, ApiServer
from .status import StatusError


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kubeproxy_bpf.sandbox.apiserver")
    add = parser.add_argument
    add("--listen", default="127.0.0.1:0", help="address and port; [::1]:0 for IPv6")
    add(
        "--manifest", action="append", default=[], help="YAML file or directory to load; repeatable"
    )
    add("--port-file", type=Path, help="write the port here once it accepts connections")
    add("--ready-fd", type=int, help="write the URL to this descriptor and close it when ready")
    add("--service-cidr", action="append", type=ipaddress.ip_network, help="at most one per family")
    add("--window", type=int, default=10_000, help="changes that a watch can go back")
    add("--bookmark-interval", type=float, default=60.0, help="seconds between bookmarks")
    add("--no-validation", action="store_true", help="store objects that no cluster would")
    add("--controller", action="store_true", help="make EndpointSlices from Services and Pods")
    add("--admin", action="store_true", help="serve /sandbox/faults")
    add("--gzip", action="store_true", help="compress large lists for clients that accept it")
    add("--watch-list", choices=("on", "rejected", "ignored"), default="on")
    add("--bulk", type=Shape.parse, metavar="NxM", help="fill with N Services of M endpoints each")
    add("--token", default="", help="require this bearer token")
    add("--tls-cert", help="serve HTTPS with this certificate chain")
    add("--tls-key")
    add("--secure-listen", help="HTTPS here, and at --listen plain HTTP without credentials")
    add("--client-ca", help="accept client certificates of this authority")
    return parser


def _checked(parser: argparse.ArgumentParser) -> argparse.Namespace:
    args = parser.parse_args()
    if bool(args.tls_cert) != bool(args.tls_key):
        parser.error("--tls-cert and --tls-key go together")
    if args.client_ca and not args.tls_cert:
        parser.error("--client-ca needs --tls-cert")
    if args.secure_listen and not args.tls_cert:
        parser.error("--secure-listen needs --tls-cert")
    versions = [cidr.version for cidr in args.service_cidr or ()]
    if len(versions) != len(set(versions)):
        parser.error("--service-cidr: at most one per family")
    return args


def _tls(args: argparse.Namespace) -> ssl.SSLContext | None:
    if not args.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(args.tls_cert, args.tls_key)
    if args.client_ca:
        context.load_verify_locations(args.client_ca)
        # A token is an alternative, so the certificate is optional here and checked per request.
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _server(args: argparse.Namespace) -> ApiServer:
    server = ApiServer(
        cidrs=args.service_cidr or DEFAULT_CIDRS,
        window=args.window,
        validate=not args.no_validation,
        admin=args.admin,
        options=Options(
            token=args.token,
            client_ca=bool(args.client_ca),
            insecure_port=bool(args.secure_listen),
            bookmark_s=args.bookmark_interval,
            watch_list=args.watch_list,
            gzip=args.gzip,
        ),
    )
    server.load_manifests(args.manifest)
    if args.bulk:
        fill(server.store, args.bulk)
    return server


def _announce(args: argparse.Namespace, server: ApiServer) -> None:
    if args.port_file:
        # Renamed into place, so that a reader never sees half of it.
        partial = args.port_file.with_suffix(".partial")
        partial.write_text(f"{server.url.rpartition(':')[2]}\n")
        partial.rename(args.port_file)
    if args.ready_fd is not None:
        os.write(args.ready_fd, f"{server.url}\n".encode())
        os.close(args.ready_fd)
    print(server.url, flush=True)


async def _run(args: argparse.Namespace) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = _server(args)
    controller = SliceController(server.store, server.registry) if args.controller else None
    tls = _tls(args)
    await server.start(*_address(args.listen), None if args.secure_listen else tls)
    if args.secure_listen:
        await server.listen_too(*_address(args.secure_listen), tls)
    if controller:
        controller.start()
    _announce(args, server)
    await stopping.wait()
    if controller:
        await controller.stop()
    await server.stop()


def main() -> int:
    try:
        asyncio.run(_run(_checked(_arguments())))
    except (StatusError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
