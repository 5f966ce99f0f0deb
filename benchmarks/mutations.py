"""Break what the contract rests on, and see the tests go red.

``python benchmarks/mutations.py`` copies the checkout, makes one change at a time and runs the tests that
have to notice. The exit status is 1 when tests stay green over a change, or are red without one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutation:
    """In ``file`` the text ``old``, which is there once, becomes ``new``; ``tests`` must notice."""

    what: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = (
    Mutation(
        "detaching leaves our processor in the layer",
        "idpersona/seams/host.py",
        "        attn.processor = self.original\n",
        "",
        "tests/contract/test_detach.py",
    ),
    Mutation(
        "detaching leaves our hooks on the layer",
        "idpersona/seams/host.py",
        "            handle.remove()\n",
        "            pass\n",
        "tests/contract/test_detach.py",
    ),
    Mutation(
        "the unconditional half sees the person, too",
        "adapters/instantid/adapter.py",
        "                theirs,\n                unconditional=unconditional,\n",
        "                theirs,\n                unconditional=None,\n",
        "tests/contract/test_batches.py",
    ),
    Mutation(
        "the unconditional half sees zeros instead of the projector's answer to nobody",
        "pipelines/instantid_mixin.py",
        "nobody, people = tokens[:1], tokens[1:]",
        "nobody, people = torch.zeros_like(tokens[:1]), tokens[1:]",
        "tests/test_pipelines_instantid.py",
    ),
    Mutation(
        "the W+ adapter asks with the hidden state instead of the text's result",
        "adapters/wplus/branch.py",
        "own = self.to_q(text.to(weight.dtype)).to(text.dtype)",
        "own = self.to_q(query.to(weight.dtype)).to(text.dtype)",
        "tests/contract/test_wplus.py",
    ),
    Mutation(
        "mixed attention reads the source's keys with its own values",
        "idpersona/seams/self_attention.py",
        "return attend(query, torch.cat([key, other_key], 1), torch.cat([value, other_value], 1), mask)",
        "return attend(query, torch.cat([key, other_key], 1), torch.cat([value, value], 1), mask)",
        "tests/test_seams_self.py",
    ),
    Mutation(
        "DECOR projects onto the undesired instead of off it",
        "adapters/decor/projection.py",
        "return (wide - alpha * (wide @ basis.T) @ basis)",
        "return (wide + alpha * (wide @ basis.T) @ basis)",
        "tests/contract/test_decor.py",
    ),
    Mutation(
        "two people share the pixels that both claim",
        "idpersona/seams/region.py",
        "    return claims * own\n",
        "    return claims\n",
        "tests/contract/test_regions.py",
    ),
    Mutation(
        "the prompt stays edited after the scope",
        "idpersona/seams/text.py",
        "            del pipe.encode_prompt\n        else:",
        "            pass\n        else:",
        "tests/test_seams_text.py",
    ),
    Mutation(
        "FaceID's change of the query comes after the query was taken",
        "idpersona/seams/linear.py",
        "_hook(branch), prepend=True)",
        "_hook(branch))",
        "tests/contract/test_ip_adapter.py",
    ),
)


def run(tree: Path, tests: str) -> tuple[bool, str]:
    """Whether ``tests`` pass in ``tree``, and pytest's last line."""
    command = [sys.executable, "-m", "pytest", "-x", "-W", "ignore", "-p", "no:cacheprovider", tests]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if re.search(r"\d (passed|failed|error)", line)]
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode == 0, " ".join([*failed[:1], *lines[-1:]]) or done.stderr[-300:]


def main() -> int:
    """Run every mutation; the changes themselves are made in a copy."""
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        skipped = shutil.ignore_patterns(".git", ".venv", "__pycache__", "runs", "reports", "build")
        shutil.copytree(ROOT, tree, symlinks=True, ignore=skipped)
        for tests in sorted({mutation.tests for mutation in MUTATIONS}):
            green, line = run(tree, tests)
            print(f"unchanged, {tests}: {line}", flush=True)
            wrong += not green
        for mutation in MUTATIONS:
            file = tree / mutation.file
            text = file.read_text()
            if text.count(mutation.old) != 1:
                raise SystemExit(
                    f"{mutation.file}: the text to be changed is not there once: {mutation.old!r}"
                )
            file.write_text(text.replace(mutation.old, mutation.new))
            green, line = run(tree, mutation.tests)
            file.write_text(text)
            print(f"{'NOT NOTICED' if green else 'noticed'}: {mutation.what}: {line}", flush=True)
            wrong += green
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
