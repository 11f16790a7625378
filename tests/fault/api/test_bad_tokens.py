# SPDX-License-Identifier: Apache-2.0
"""Tokens that would break the header that they go into."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubeproxy_bpf.api.credentials import Credentials
from kubeproxy_bpf.errors import ConfigError

from .scripted_server import ScriptedServer
from .test_authentication import ask, client_of, demand, url, write_kubeconfig, write_plugin


@pytest.mark.parametrize(
    "text", ["one\nq7z", "one\r\nX-Remote-User: q7z", "one\0q7z", "on\u00e9q7z"]
)
async def test_a_token_that_no_header_can_hold_is_not_taken(
    server: ScriptedServer, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What we had goes on to be used, and the report does not tell the secret."""
    token = tmp_path / "token"
    token.write_text("first")
    config = write_kubeconfig(tmp_path / "config", url(server), {"tokenFile": "token"})
    async with client_of(Credentials(config)) as client:
        demand(server, "first")
        token.write_text(text)
        await ask(client)
    assert len(server.requests) == 1
    told = capsys.readouterr().out
    assert "credentials_not_renewed" in told and "q7z" not in told


async def test_a_bad_token_is_a_configuration_error_at_the_start(tmp_path: Path) -> None:
    """With nothing to go on with, it is said and ends the start."""
    config = write_kubeconfig(tmp_path / "config", "http://127.0.0.1:1", {"token": "a\nb"})
    with pytest.raises(ConfigError, match="control characters"):
        await Credentials(config).load()


async def test_a_bad_token_of_an_exec_plugin_is_not_taken(
    server: ScriptedServer, tmp_path: Path
) -> None:
    """A plugin that runs again and fails so leaves the token that it gave before."""
    user = write_plugin(tmp_path / "plugin", "2001-01-01T00:00:00Z")
    config = write_kubeconfig(tmp_path / "config", url(server), user)
    async with client_of(Credentials(config)) as client:
        demand(server, "token-1")
        plugin = tmp_path / "plugin"
        plugin.write_text(plugin.read_text().replace("token-@", "to\\\\nken-@"))
        await ask(client)
    assert len(server.requests) == 1
