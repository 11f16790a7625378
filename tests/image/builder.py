# SPDX-License-Identifier: Apache-2.0
"""Execute a Dockerfile without a container engine: its RUN and COPY steps, in a chroot.

The base image cannot be pulled, so it is built from Debian's packages. What else the steps need
comes from where this machine gets it: sources of apt, indexes and certificates of pip. Run as
``unshare --mount builder.py``, so that no mount outlives it; prints what it built as JSON. An
instruction that it does not know is an error, never skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import pathspec
from dockerfile_parse import DockerfileParser
from layers import LayerStore, digest, key_of, mount
from machine import Registries, debian_sources

ROOT = Path(__file__).parents[2]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SUITE = "bookworm"


@dataclass
class Stage:
    """What a FROM begins: layers, and what later steps and the container take over."""

    name: str
    key: str
    layers: list[Path]
    env: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    directory: str = "/"
    entrypoint: list[str] = field(default_factory=list)


class Builder:
    """Executes the steps in order; each stage may copy from those before it."""

    def __init__(self, context: Path, cache: Path, args: dict[str, str]) -> None:
        self._context = context
        self._store = LayerStore(cache)
        self._args = args
        self._stages: list[Stage] = []
        self._registries = Registries.of_this_machine()

    def build(self) -> Stage:
        """Return the last stage."""
        with (self._context / "Dockerfile").open("rb") as file:
            steps = DockerfileParser(fileobj=file).structure
        for step in steps:
            if step["instruction"] != "COMMENT":
                getattr(self, f"_{step['instruction'].lower()}")(step["value"])
        self._store.prune()
        return self._stages[-1]

    @property
    def _stage(self) -> Stage:
        return self._stages[-1]

    def _arg(self, value: str) -> None:
        name, _, default = value.partition("=")
        self._args.setdefault(name, default)

    def _from(self, value: str) -> None:
        image, _, name = Template(value).substitute(self._args).partition(" AS ")
        if image.removesuffix("-slim") != f"debian:{SUITE}":
            raise SystemExit(f"no base but debian:{SUITE} can be built here: {image}")
        sources = debian_sources(SUITE)
        key = key_of("base", SUITE, sources.read_text() if sources else "")
        base = self._store.make(key, [], lambda root: _base(root, sources))
        self._stages.append(Stage(name, key, [base]))

    def _run(self, command: str) -> None:
        self._layer(key_of("RUN", command), lambda root: self._chroot(root, command))

    def _copy(self, value: str) -> None:
        *options, source, target = value.split()
        target = os.path.normpath(os.path.join(self._stage.directory, target))
        if options:
            name = options[0].removeprefix("--from=")
            (origin,) = [stage for stage in self._stages if stage.name == name]
            key = key_of("COPY", value, origin.key)
            self._layer(key, lambda root: _copy_from(origin, source, root / target.lstrip("/")))
            return
        files = self._context_files()
        key = key_of("COPY", value, digest(files, self._context))
        self._layer(key, lambda root: self._copy_in(files, root / target.lstrip("/")))

    def _workdir(self, value: str) -> None:
        self._stage.directory = value
        self._layer(key_of("WORKDIR", value), lambda root: (root / value.lstrip("/")).mkdir())

    def _env(self, value: str) -> None:
        name, _, text = value.partition("=")
        self._stage.env[name] = text

    def _label(self, value: str) -> None:
        """Labels change no file."""

    def _entrypoint(self, value: str) -> None:
        self._stage.entrypoint = json.loads(value)

    def _layer(self, key: str, work: Any) -> None:
        stage = self._stage
        stage.key = key_of(stage.key, key, *stage.env.values(), stage.directory)
        stage.layers.append(self._store.make(stage.key, stage.layers, work))

    def _context_files(self) -> list[Path]:
        ignored = pathspec.PathSpec.from_lines(
            "gitignore", (self._context / ".dockerignore").read_text().splitlines()
        )
        listed = subprocess.check_output(
            ["git", "-C", self._context, "ls-files", "-z"]
            + ["--cached", "--others", "--exclude-standard"],
            text=True,
        )
        names = [name for name in listed.split("\0") if name and not ignored.match_file(name)]
        return [path for path in (self._context / name for name in names) if path.is_file()]

    def _copy_in(self, files: list[Path], target: Path) -> None:
        for path in files:
            to = target / path.relative_to(self._context)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, to)

    def _chroot(self, root: Path, command: str) -> None:
        print(f"RUN {' '.join(command.split())}", file=sys.stderr)
        with ExitStack() as stack:
            mount("-t", "proc", "proc", str(root / "proc"))
            mount("--rbind", "--make-rslave", "/dev", str(root / "dev"))
            mount("-t", "tmpfs", "tmpfs", str(root / "run"))
            for path in ("proc", "dev", "run"):
                stack.callback(subprocess.run, ["umount", "-R", "-l", str(root / path)])
            env = self._stage.env | self._registries.enter(root)
            shell = f"cd {self._stage.directory} && {command}"
            _say_only_failures(["chroot", str(root), "/bin/sh", "-c", shell], env)


def _base(root: Path, sources: Path | None) -> None:
    print(f"FROM debian:{SUITE}, from its packages", file=sys.stderr)
    command = ["mmdebstrap", "--quiet", "--variant=minbase", SUITE, str(root)]
    _say_only_failures(command + ([str(sources)] if sources else []), None)


def _say_only_failures(command: list[str], env: dict[str, str] | None) -> None:
    done = subprocess.run(
        command,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise SystemExit(f"exit status {done.returncode}: {command[-1]}\n{done.stdout[-4000:]}")


def _copy_from(origin: Stage, source: str, target: Path) -> None:
    for layer in origin.layers:
        found = layer / source.lstrip("/")
        if found.is_dir():
            shutil.copytree(found, target, symlinks=True, dirs_exist_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--context", type=Path, default=ROOT)
    parser.add_argument("--cache", type=Path, default=ROOT / ".build" / "image")
    args = parser.parse_args()
    stage = Builder(args.context, args.cache, {}).build()
    print(json.dumps(asdict(stage), default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main())
