# SPDX-License-Identifier: Apache-2.0
"""Kubeconfigs that are wrong in any way: a connection, or one clear error without secrets."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_bpf.api.credentials import Credentials
from kubeproxy_bpf.errors import ConfigError
from tests.examples import bounded
from tests.property.api_objects import NO_ADDRESSES, Json, choice, maybe, spoiled

SECRET = "s3cr3t-0f-nobody"
CODED = base64.b64encode(f"-----BEGIN {SECRET}".encode()).decode()
CA = trustme.CA()
CA_PEM = CA.cert_pem.bytes().decode()
CA_DATA = base64.b64encode(CA.cert_pem.bytes()).decode()
DENIED = (ssl.SSLError, OSError, ValueError)
"""What a request fails with whose certificates cannot be used; the reflector retries."""

GARBAGE = choice("", "====", "%", "é", CODED, "LS0tLS1CRUdJTg==", "A", CA_DATA[:50], "A" * 70_001)
PLACES = choice("/", "/nowhere", "/dev/null", "", ".", "\0", "TOKEN", "EMPTY", "LINES", "CA")
CREDENTIAL = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
OUTPUTS = [
    "",
    "{",
    "[]",
    "null",
    SECRET,
    json.dumps({**CREDENTIAL, "status": {"token": SECRET}}),
    json.dumps({**CREDENTIAL, "status": {}}),
    json.dumps({**CREDENTIAL, "status": {"token": f"{SECRET}\r\nX: y"}}),
    json.dumps({**CREDENTIAL, "status": {"token": SECRET, "expirationTimestamp": "soon"}}),
    json.dumps({**CREDENTIAL, "status": {"clientCertificateData": CODED, "clientKeyData": SECRET}}),
]
PLUGINS = st.one_of(
    st.fixed_dictionaries(
        {
            "apiVersion": choice("client.authentication.k8s.io/v1", "x", ""),
            "command": choice("/bin/false", "/nowhere", "", "/"),
        }
    ),
    choice(*OUTPUTS).map(
        lambda text: {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "/bin/printf",
            "args": ["%s", text],
            "interactiveMode": "Never",
        }
    ),
)
USERS = maybe(
    **{
        "token": choice(SECRET, f"{SECRET}\nX: y", "", "é" + SECRET, "\0" + SECRET),
        "tokenFile": PLACES,
        "username": choice("admin", ""),
        "password": choice(SECRET, ""),
        "client-certificate": PLACES,
        "client-key": PLACES,
        "client-certificate-data": GARBAGE,
        "client-key-data": GARBAGE,
        "auth-provider": choice({"name": "gcp"}, {"name": "oidc"}, {}, []),
    }
)
CLUSTERS = maybe(
    **{
        "server": choice("https://192.0.2.1:6443", "http://x:99999", "://", "", "ftp://a", "x"),
        "certificate-authority": PLACES,
        "certificate-authority-data": st.one_of(st.just(CA_DATA), GARBAGE),
        "insecure-skip-tls-verify": choice(True, False, "yes", 1),
        "proxy-url": choice(f"http://user:{SECRET}@proxy:99999", "socks5://x", "", "\n", "x"),
        "tls-server-name": choice("", "x", "é", *NO_ADDRESSES[:3]),
    }
)


@st.composite
def kubeconfigs(draw: st.DrawFn) -> Json:
    user = draw(USERS)
    if draw(st.booleans()):
        user = {"exec": draw(PLUGINS)}
    cluster = {"server": "https://192.0.2.1:6443"} | draw(CLUSTERS)
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": draw(choice("x", "x", "x", "nosuch", "")),
    }


def placed(value: Any, directory: Path) -> Any:
    """The document with its places as files of a directory."""
    if isinstance(value, dict):
        return {key: placed(inner, directory) for key, inner in value.items()}
    if isinstance(value, list):
        return [placed(inner, directory) for inner in value]
    return str(directory / value) if value in ("TOKEN", "EMPTY", "LINES", "CA") else value


def check(content: bytes, directory: Path) -> None:
    """Load it as often as a process would, and ask for a connection."""
    path = directory / "kubeconfig"
    path.write_bytes(content)
    credentials = Credentials(kubeconfig=str(path))
    try:
        asyncio.run(credentials.load())
    except ConfigError as error:
        (text,) = error.problems
        assert text.startswith(str(path)), text
        assert SECRET not in text and CODED not in text and len(text) < 1000
        return
    header = credentials.connection.authorization
    assert header is None or (header.isascii() and header.isprintable())
    try:
        credentials.tls()
    except DENIED as error:
        assert SECRET not in str(error)


def in_directory(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for file, text in (("TOKEN", SECRET), ("EMPTY", ""), ("LINES", "a\nb"), ("CA", CA_PEM)):
            (directory / file).write_text(text)
        document = placed(json.loads(content), directory) if content[:1] == b"{" else None
        check(content if document is None else json.dumps(document).encode(), directory)


@bounded(30)
@given(kubeconfigs())
def test_any_kubeconfig(document: Json) -> None:
    """Missing files, directories, broken certificates, plugins that fail or print nonsense."""
    in_directory(json.dumps(document).encode())


@bounded(30)
@given(spoiled(kubeconfigs()))
def test_any_spoiled_kubeconfig(document: Json) -> None:
    """Any value of any type in any place."""
    in_directory(json.dumps(document).encode())


@bounded(30)
@given(kubeconfigs(), st.data())
def test_any_damaged_kubeconfig(document: Json, data: Any) -> None:
    """Text that is no longer the document that it was."""
    content = yaml.safe_dump(document).encode()
    at = data.draw(st.integers(0, len(content)))
    odd = choice(
        b"&a ", b"*a", b"\0", b"\xff", b"[" * 5000, b": ", b"\t", b"!!python/name:x ", b"'"
    )
    in_directory(b"#\n" + content[:at] + data.draw(odd) + content[at + 1 :])


@pytest.mark.parametrize("text", ["[" * 100_000, "a: &a [*a]", "- " * 100_000, "\0", "1"])
def test_what_ends_readers_ends_no_process(tmp_path: Path, text: str) -> None:
    """Depth and aliases, as in files of configuration."""
    check(text.encode(), tmp_path)
