"""The README's table of the contract is what these tests run. ``IDPERSONA_WRITE=1`` writes it anew."""

from __future__ import annotations

import ast
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- contract -->\n", "<!-- end of contract -->\n"
README = Path(__file__).parents[2] / "README.md"
LEFT_OUT = (
    "Offloading is tested where there is an accelerator, guess mode where an adapter has one, and\n"
    "inpainting on bases whose latents have four channels."
)
BASES = {"mini": "mini", "sd15": "SD1.5", "sdxl": "SDXL"}


def areas() -> dict[str, list[str]]:
    """What a file of this folder is about -> its tests that run over all rows, on any machine."""
    found: dict[str, list[str]] = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [part for part in tree.body if isinstance(part, ast.FunctionDef)]
        of_rows = {"row"}  # this fixture, and those that ask for it
        for part in functions:
            if "fixture" in _decorators(part) and _arguments(part) & of_rows:
                of_rows.add(part.name)
        tests = [
            part.name
            for part in functions
            if part.name.startswith("test_") and _arguments(part) & of_rows and "gpu" not in _decorators(part)
        ]
        if tests:
            about = (ast.get_docstring(tree) or "").splitlines()[0].rstrip(".")
            found[about.partition(": ")[2] if about.startswith("Contract") else about] = tests
    return found


def _arguments(function: ast.FunctionDef) -> set[str]:
    return {argument.arg for argument in function.args.args}


def _decorators(function: ast.FunctionDef) -> str:
    return " ".join(ast.unparse(decorator) for decorator in function.decorator_list)


def table(rows: dict[str, Any]) -> str:
    """Markdown: areas down, methods across, how many of the tests apply; then what does not, and why."""
    methods: dict[str, list[str]] = defaultdict(list)
    lacks: dict[str, dict[str, str]] = {}
    for name, row in rows.items():
        method, _, base = name.rpartition("-")
        methods[method].append(BASES[base])
        assert lacks.setdefault(method, row.lacks) == row.lacks, name
    tests = areas()
    known = {test for names in tests.values() for test in names}
    lines = [
        "| | " + " | ".join(f"`{method}`" for method in methods) + " |",
        "| --- |" + " --- |" * len(methods),
    ]
    lines.append("| on the bases | " + " | ".join(", ".join(bases) for bases in methods.values()) + " |")
    for about, names in tests.items():
        counts = [sum(name not in lacks[method] for name in names) for method in methods]
        cells = [f"all {len(names)}" if n == len(names) else f"{n} of {len(names)}" for n in counts]
        lines.append(f"| {about[0].lower()}{about[1:]} | " + " | ".join(cells) + " |")
    lines += ["", "What does not apply, and in brackets the tests that it concerns:", ""]
    for method in methods:
        assert not lacks[method].keys() - known, lacks[method].keys() - known
        why: dict[str, list[str]] = defaultdict(list)
        for test, reason in lacks[method].items():
            why[reason].append(test.removeprefix("test_").replace("_", " "))
        lines += [f"* `{method}`: {reason} ({'; '.join(what)})." for reason, what in why.items()]
    lines += ["", LEFT_OUT]
    return "\n".join(lines) + "\n"


def test_the_readme_shows_the_contract(all_rows: dict[str, Any]) -> None:
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    shown, _, after = rest.partition(END)
    wanted = "\n" + table(all_rows) + "\n"
    if os.environ.get("IDPERSONA_WRITE"):
        README.write_text(before + BEGIN + wanted + END + after, encoding="utf-8")
    else:
        assert shown == wanted, (
            "write it anew: IDPERSONA_WRITE=1 python -m pytest tests/contract/test_table.py"
        )
