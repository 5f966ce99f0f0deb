"""Dependencies between the rooms point one way (CONTRIBUTING, "The rooms")."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEAVES = ("cli", "eval", "testing")
MAY_IMPORT = {
    "core": {"core"},
    "adapters": {"core", "adapters"},
    "pipelines": {"core", "adapters", "pipelines"},
    "training": {"core", "adapters", "pipelines", "training"},
    "eval": {"core", "adapters", "pipelines", "training", "eval"},
    "testing": {"core", "adapters", "pipelines", "testing"},
    "jobs": {"core", "adapters", "pipelines", "training", "jobs"},
    "app": {"core", "adapters", "pipelines", "training", "eval", "jobs", "app"},
    "cli": {"core", "adapters", "pipelines", "training", "eval", "jobs", "app", "cli"},
}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else "core"


def modules() -> Iterator[tuple[str, Path]]:
    for top in ("idpersona", "adapters", "pipelines", "training", "app"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if top == "idpersona" and len(parts) > 1 and (ROOT / "idpersona" / parts[1]).is_symlink():
                continue
            yield ".".join(parts if top == "idpersona" else ("idpersona", *parts)), path


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_room_imports_what_lies_above_it() -> None:
    seen = set()
    wrong = []
    for module, path in modules():
        if module in ("idpersona.__main__", "idpersona.__init__"):
            continue
        seen.add(room(module))
        for name in imports(path):
            if name.startswith("idpersona") and room(name) not in MAY_IMPORT[room(module)]:
                wrong.append(f"{module} imports {name}")
    assert wrong == []
    assert seen == set(MAY_IMPORT)
