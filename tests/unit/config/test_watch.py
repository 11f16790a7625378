# SPDX-License-Identifier: Apache-2.0
"""A configuration file that is written or renamed ends the process, a swapped one does not."""

import asyncio
import os

import pytest

from kubeproxy_bpf.config.schema import Config
from kubeproxy_bpf.config.watch import watch_config
from kubeproxy_bpf.errors import KubeProxyError


@pytest.fixture
async def watch():
    """Watch a file, and let the watch begin before anything happens to it."""
    tasks = []

    async def begin(config_path, own_config_path=""):
        config = Config(
            hostname="n1", config_path=str(config_path), own_config_path=str(own_config_path)
        )
        task = asyncio.create_task(watch_config(config))
        await asyncio.sleep(0)
        tasks.append(task)
        return task

    yield begin
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.conf"
    path.write_text("a")
    return path


async def ended(task):
    with pytest.raises(KubeProxyError) as caught:
        await asyncio.wait_for(task, 10)
    return str(caught.value)


async def logged(event, capture):
    """Wait until an event was logged."""
    async with asyncio.timeout(10):
        while event not in capture.readouterr().out:
            await asyncio.sleep(0.01)


async def test_a_write_ends_it(watch, file):
    """Also a write that changes nothing in the file's size."""
    task = await watch(file)
    file.write_text("b")
    assert str(file) in await ended(task)


async def test_a_renaming_ends_it(watch, file):
    """The path is then free for another configuration."""
    task = await watch(file)
    file.rename(file.with_name("old"))
    assert str(file) in await ended(task)


async def test_the_file_of_our_own_settings_is_watched_too(watch, file, tmp_path):
    """Both decide about the process."""
    own = tmp_path / "bpf.conf"
    own.write_text("a")
    task = await watch(file, own)
    own.write_text("b")
    assert str(own) in await ended(task)


async def test_a_swapped_config_map_is_logged_and_watched_on(watch, tmp_path, capsys):
    """The kubelet's way: a new directory, then ..data is renamed over, then the old one goes."""
    for version in ("1", "2"):
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "config.conf").write_text(version)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "config.conf").symlink_to("..data/config.conf")
    task = await watch(tmp_path / "config.conf")

    (tmp_path / "..data_tmp").symlink_to("..2")
    os.rename(tmp_path / "..data_tmp", tmp_path / "..data")
    (tmp_path / "..1" / "config.conf").unlink()

    await logged("config_replaced", capsys)
    assert not task.done()
    (tmp_path / "..2" / "config.conf").write_text("3")
    await ended(task)


async def test_reading_and_changed_permissions_do_not_end_it(watch, file, capsys):
    """Nor does the removal of the file, which is logged."""
    task = await watch(file)
    file.read_text()
    file.chmod(0o600)
    file.unlink()

    await logged("config_removed", capsys)
    assert not task.done()


async def test_without_a_file_nothing_is_watched(watch):
    """The task waits for ever, as all tasks of the process do."""
    task = await watch("")
    await asyncio.sleep(0.01)
    assert not task.done()


async def test_a_file_that_cannot_be_watched_is_no_reason_to_end(watch, tmp_path, capsys):
    """Nodes run out of watches; the proxy matters more."""
    task = await watch(tmp_path / "missing")
    await logged("config_not_watched", capsys)
    assert not task.done()
