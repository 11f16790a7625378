# SPDX-License-Identifier: Apache-2.0
"""An older proxy: the same program on objects whose structs have their members in other places.

Run as a script it is that proxy: ``older.py OBJECTS FLAG...``. Imported, it builds the objects from
the sources: each change gives a struct eight bytes that nobody uses, so that all behind them moves.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Mapping

ROOT = Path(__file__).parents[3]
TYPES = ("kpb_types.h", "kpb_packet_types.h")
UNUSED = "\t__u8 pad7[8];\n"


def build(directory: Path, changes: Mapping[str, str]) -> Path:
    """Compile the objects with unused bytes before a member of some structs; tells where they are.

    ``changes`` names a line of the struct's definition for each struct.
    """
    sources, objects = directory / "bpf", directory / "obj"
    shutil.copytree(ROOT / "bpf", sources)
    for struct, member in changes.items():
        _change(sources / "include", struct, member)
    argv = ["make", "-s", "-C", str(sources), f"OUT={objects}", f"BUILD={directory / 'build'}"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return objects


def _change(include: Path, struct: str, member: str) -> None:
    for name in TYPES:
        text = (include / name).read_text()
        head, found, rest = text.partition(f"\nstruct {struct} {{\n")
        before, line, behind = rest.partition(f"\t{member}")
        if found and line:
            (include / name).write_text(head + found + before + UNUSED + line + behind)
            return
    raise AssertionError(f"no {member} in struct {struct}")


def command(objects: Path) -> str:
    """What starts the proxy on these objects."""
    return f"{sys.executable} {__file__} {objects}"


def main() -> None:
    import kubeproxy_bpf.instance
    from kubeproxy_bpf import cli

    objects = Path(sys.argv.pop(1))
    setattr(kubeproxy_bpf.instance, "object_path", objects.joinpath)
    cli.main()


if __name__ == "__main__":
    main()
