# SPDX-License-Identifier: Apache-2.0
"""Check what no off-the-shelf linter knows: licence lines, docstrings, budgets, names.

Prints one line per fault and exits with 1 when there is any. Reads the tree that it is called in,
changes nothing. Called by ``tox -e lint``; the rules are explained in CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Iterator

PYTHON_TREES = ("kubeproxy_bpf", "tests", "tools")
PYTHON_LINES = 400
C_LINES = 350
FUNCTION_LINES = 60
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
PYTHON_LICENCE = "# SPDX-License-Identifier: Apache-2.0"
C_LICENCE = "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause"

Function = ast.FunctionDef | ast.AsyncFunctionDef


def licence_faults(source: str, wanted: str) -> Iterator[tuple[int, str]]:
    """Demand the licence in the first line, or in the second after ``#!``."""
    lines = source.splitlines()
    first = 1 if lines and lines[0].startswith("#!") else 0
    if len(lines) <= first or wanted not in lines[first]:
        yield first + 1, f"the first line is not the licence ({wanted})"


def length_faults(source: str, budget: int) -> Iterator[tuple[int, str]]:
    lines = source.count("\n")
    if lines > budget:
        yield budget, f"{lines} lines, the budget is {budget}"


def function_lines(function: Function) -> int:
    """Count the lines of the body without the docstring."""
    body = function.body
    if ast.get_docstring(function) is not None:
        body = body[1:]
    if not body:
        return 0
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


def docstring_faults(tree: ast.Module, *, test: bool) -> Iterator[tuple[int, str]]:
    """Demand a docstring of modules and of public classes; in test modules of each test instead."""
    if tree.body and ast.get_docstring(tree) is None:
        yield 1, "module without a docstring"
    for node in tests_of(tree) if test else public_classes(tree):
        if ast.get_docstring(node) is None:
            yield node.lineno, f"{node.name} has no docstring"


def tests_of(tree: ast.Module) -> list[Function]:
    functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
    return [function for function in functions if function.name.startswith("test_")]


def public_classes(tree: ast.Module) -> list[ast.ClassDef]:
    """Return the classes that need a docstring: the one class of a module has the module's."""
    classes = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not is_record(node)
    ]
    return classes if len(classes) > 1 else []


def is_record(node: ast.ClassDef) -> bool:
    """Tell whether the class is fields with names: their meaning stands at the fields."""
    kinds = {type(statement) for statement in node.body}
    if not kinds & {ast.Assign, ast.AnnAssign}:
        return False
    named_tuple = any(isinstance(base, ast.Name) and base.id == "NamedTuple" for base in node.bases)
    return named_tuple or not kinds & {ast.FunctionDef, ast.AsyncFunctionDef}


def function_faults(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, Function) and (lines := function_lines(node)) > FUNCTION_LINES:
            yield node.lineno, f"{node.name} has {lines} lines, the budget is {FUNCTION_LINES}"


def python_faults(path: Path, source: str) -> Iterator[tuple[int, str]]:
    if path.stem in VAGUE_NAMES:
        yield 1, f"{path.stem!r} says nothing about what is inside"
    yield from licence_faults(source, PYTHON_LICENCE)
    yield from length_faults(source, PYTHON_LINES)
    tree = ast.parse(source, str(path))
    yield from docstring_faults(tree, test=path.parts[0] == "tests")
    yield from function_faults(tree)


def c_faults(source: str) -> Iterator[tuple[int, str]]:
    yield from licence_faults(source, C_LICENCE)
    yield from length_faults(source, C_LINES)


def faults(root: Path) -> Iterator[str]:
    """Yield each fault of the tree under ``root`` as "path:line: what"."""
    for folder in PYTHON_TREES:
        for path in sorted((root / folder).rglob("*.py")):
            short = path.relative_to(root)
            for line, fault in python_faults(short, path.read_text()):
                yield f"{short}:{line}: {fault}"
    for path in sorted((root / "bpf").rglob("*.[ch]")):
        for line, fault in c_faults(path.read_text()):
            yield f"{path.relative_to(root)}:{line}: {fault}"


def main() -> int:
    found = list(faults(Path.cwd()))
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
