"""Examinations of ``idpersona doctor``: each tries the thing instead of asking whether it is installed."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from packaging.requirements import Requirement

State = Literal["ok", "absent", "note", "broken"]
OPTIONAL = {
    "peft": "pip install 'idpersona[train]' (for --lora)",
    "xformers": "pip install 'idpersona[cuda]'",
}
# An ONNX model of one Relu: enough to see which provider a session really gets.
RELU = bytes.fromhex(
    "080712003a330a0c0a0178120179220452656c751201675a0f0a0178120a0a08080112040a02080162"
    "0f0a0179120a0a08080112040a02080142040a00100d"
)


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``absent`` is missing but not needed for the embedded model."""

    area: str
    what: str
    state: State
    detail: str
    fix: str = ""


def examine() -> list[Finding]:
    """All findings, in the order in which they are read best."""
    return [*_packages(), *_devices(), *_attention(), *_providers(), *_weights(), *_people()]


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _needed() -> list[Requirement]:
    """What the installed idpersona declares to need, extras left out."""
    from packaging.requirements import Requirement

    declared = [Requirement(line) for line in requires("idpersona") or ()]
    return [one for one in declared if one.marker is None or one.marker.evaluate({"extra": ""})]


def _packages() -> Iterator[Finding]:
    from idpersona import __version__

    yield Finding("version", "idpersona", "ok", f"{__version__}, Python {platform.python_version()}")
    for needed in _needed():
        found = _installed(needed.name)
        if found is None and needed.name == "onnxruntime":
            found = _installed("onnxruntime-gpu")
        fits = found is not None and needed.specifier.contains(found, prereleases=True)
        detail = found if fits else f"{found or 'not installed'}, needed is {needed.specifier or 'any'}"
        fix = "" if fits else f"pip install '{needed.name}{needed.specifier}'"
        yield Finding("version", needed.name, "ok" if fits else "broken", str(detail), fix)
    for name, fix in OPTIONAL.items():
        found = _installed(name)
        yield Finding(
            "version", name, "ok" if found else "absent", found or "not installed", "" if found else fix
        )


def _devices() -> Iterator[Finding]:
    import torch

    yield Finding("device", "cpu", "ok", f"{platform.machine()}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            half = "fp16 and bf16" if torch.cuda.is_bf16_supported() else "fp16, no bf16"
            detail = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, {half}"
            yield Finding("device", f"cuda:{index}", "ok", detail)
    else:
        reason = "this torch is a CPU build" if torch.version.cuda is None else "no usable NVIDIA device"
        yield Finding(
            "device", "cuda", "absent", reason, "see the GPU section of the README, if there is a GPU"
        )
    if torch.backends.mps.is_available():
        yield Finding("device", "mps", "ok", "Apple GPU")


def _attention() -> Iterator[Finding]:
    """Attention as the pipelines run it: PyTorch's own, on the best device, in each type."""
    import torch

    from idpersona.devices import best_device

    device = best_device()
    for name in ("float32", "bfloat16", "float16"):
        query = torch.ones(1, 2, 16, 64, device=device, dtype=getattr(torch, name))
        try:
            torch.nn.functional.scaled_dot_product_attention(query, query, query)
            yield Finding("kernel", f"sdpa {name}", "ok", f"runs on {device}")
        except RuntimeError as error:
            line = str(error).splitlines()[0]
            yield Finding(
                "kernel", f"sdpa {name}", "note", f"fails on {device}: {line}", "use another --dtype"
            )
    if _installed("xformers"):
        # The package imports also where its kernels cannot run, so one is run.
        try:
            from xformers.ops import memory_efficient_attention  # pyright: ignore[reportMissingImports]

            half = torch.ones(1, 16, 2, 64, device=device, dtype=torch.float16)
            memory_efficient_attention(half, half, half)
            yield Finding("kernel", "xformers", "ok", f"runs on {device}")
        except Exception as error:  # whatever a foreign extension raises when it does not fit
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            detail = f"installed, but does not run on {device}: {line[:100]}"
            yield Finding("kernel", "xformers", "note", detail, "not needed: sdpa is used")


def _providers() -> Iterator[Finding]:
    try:
        import onnxruntime

        ours = ("CUDAExecutionProvider", "CPUExecutionProvider")
        asked = [name for name in onnxruntime.get_available_providers() if name in ours]
        used = onnxruntime.InferenceSession(RELU, providers=asked).get_providers()
    except Exception as error:  # a broken native library may raise anything
        yield Finding(
            "provider", "onnxruntime", "broken", str(error)[:100], "pip install --force-reinstall onnxruntime"
        )
        return
    both = _installed("onnxruntime") and _installed("onnxruntime-gpu")
    detail = f"a session really runs on {used[0]}"
    if both and "CUDAExecutionProvider" not in used:
        fix = "pip uninstall -y onnxruntime && pip install --force-reinstall --no-deps onnxruntime-gpu"
        yield Finding(
            "provider", "onnxruntime", "note", f"{detail}; CPU and GPU builds shadow each other", fix
        )
    else:
        yield Finding("provider", "onnxruntime", "ok", detail)


def _weights() -> Iterator[Finding]:
    from idpersona.registry import WEIGHTS, installed

    for weight in WEIGHTS.values():
        folder = installed(weight.name)
        use = "" if weight.commercial else ", non-commercial"
        if folder:
            yield Finding("weights", weight.name, "ok", f"{folder}{use}")
        elif weight.place == "hub":
            fix = f"idpersona models pull {weight.name}"
            yield Finding("weights", weight.name, "absent", f"not here (from the hub{use})", fix)
        elif weight.place == "hand":
            fix = (
                f"fetch {', '.join(weight.files)} from {weight.source} (idpersona models list {weight.name})"
            )
            yield Finding("weights", weight.name, "absent", f"not here (fetched by hand{use})", fix)
        else:
            fix = (
                "install idpersona again"
                if weight.embedded
                else f"pip install {weight.source.replace('_', '-')}"
            )
            yield Finding("weights", weight.name, "broken", "files are missing", fix)


def _people() -> Iterator[Finding]:
    from idpersona.errors import PeopleFileError
    from idpersona.safety import load_people, people_path

    try:
        people = load_people()
    except PeopleFileError as error:
        yield Finding(
            "safety", "people", "broken", str(error), "restore the file, or remove it to start anew"
        )
        return
    count = len(people.active)
    detail = f"{count} in {people_path()}" if count else f"nobody listed ({people_path()})"
    yield Finding(
        "safety", "people", "ok", f"{detail}; others are {people.others}ed".replace("denyed", "denied")
    )
