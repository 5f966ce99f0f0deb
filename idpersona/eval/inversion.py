"""``eval inversion``: what comes back of real photos, inverted and drawn again with the same words.

Rows: the autoencoder alone, which is the ceiling of all; and each inversion, drawn with guidance. Compared
are the photo and what came back: PSNR (dB), SSIM, mean squared error, and the distance of ``mini-vit``'s
features; and the same PSNR to what the autoencoder alone brings back. A pass is one run of the U-Net for one
row of the inversion, a backward pass counts two; seconds are for one photo, when ``batch`` photos go at once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from idpersona.errors import BadInput
from idpersona.eval.autoencoder import roundtrip
from idpersona.eval.features import feature_distance, network_sha256
from idpersona.eval.finders import Finder
from idpersona.eval.pictures import mse, psnr, ssim
from idpersona.eval.progress import track
from idpersona.eval.protocol import Protocol
from idpersona.eval.report import Report
from idpersona.eval.sitters import Sitter, sitters
from idpersona.eval.tables import cell, markdown
from idpersona.eval.weights import pipe_sha256
from idpersona.pipelines import invert
from idpersona.pipelines.base import native_size
from idpersona.pipelines.editing.edit import reconstruct
from idpersona.pipelines.inversion.methods import METHODS
from idpersona.sheets import contact_sheet
from idpersona.training.data.archives import PhotoStore

CEILING = "autoencoder alone"


def evaluate_inversion(
    pipe: Any,
    protocol: Protocol,
    methods: Sequence[str] = tuple(METHODS),
    *,
    finder: Finder,
    store: PhotoStore,
    photos: int = 24,
    steps: int = 50,
    guidance: float = 7.5,
    batch: int = 1,
    cache: Path | None = None,
    quiet: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Report:
    """Bring ``photos`` held-out photos back by each of ``methods``; one that ``pipe`` refuses is named."""
    people, failures = sitters(
        protocol, store, finder, photos, min(native_size(pipe)), cache=cache, quiet=quiet
    )
    pictures = [person.picture for person in people]
    ceiling = roundtrip(pipe, pictures)
    back: dict[str, list[Image.Image]] = {CEILING: ceiling}
    cost: dict[str, dict[str, float]] = {}
    for name in methods:
        try:
            back[name], cost[name] = _brought_back(pipe, people, name, steps, guidance, batch, quiet)
        except BadInput as error:  # an inversion that this base does not take
            failures.append(f"{name}: {error}")
    values = {
        name: {
            "psnr": [psnr(a, b) for a, b in zip(pictures, one, strict=True)],
            "ssim": [ssim(a, b) for a, b in zip(pictures, one, strict=True)],
            "mse": [mse(a, b) for a, b in zip(pictures, one, strict=True)],
            "features": [feature_distance(a, b) for a, b in zip(pictures, one, strict=True)],
            "to_ceiling": [psnr(a, b) for a, b in zip(ceiling, one, strict=True)],
        }
        for name, one in back.items()
    }
    rows: list[dict[str, Any]] = [
        {
            "inversion": name,
            **{key: protocol.interval(numbers) for key, numbers in measured.items()},
            **cost.get(name, {}),
        }
        for name, measured in values.items()
    ]
    return Report(
        kind="inversion",
        settings=protocol.record(
            {
                "photos": len(people),
                "inversion_steps": steps,
                "edit_guidance": guidance,
                "batch": batch,
                **(settings or {}),
            }
        ),
        weights={
            "base": pipe_sha256(pipe),
            f"finder:{finder.name}": finder.weights_sha256,
            "mini-vit": network_sha256(),
        },
        rows=rows,
        people=[
            {
                "photo": person.photo.file,
                "source": person.source,
                **{
                    name: {key: round(numbers[n], 5) for key, numbers in measured.items()}
                    for name, measured in values.items()
                },
            }
            for n, person in enumerate(people)
        ],
        table=_table(rows),
        failures=failures,
        sheet=contact_sheet(
            [[pictures[n], *(one[n] for one in back.values())] for n in range(min(8, len(people)))],
            columns=["photo", *back],
        ),
    )


def _brought_back(
    pipe: Any, people: Sequence[Sitter], method: str, steps: int, guidance: float, batch: int, quiet: bool
) -> tuple[list[Image.Image], dict[str, float]]:
    back: list[Image.Image] = []
    passes, seconds = 0.0, 0.0
    chunks = [people[n : n + batch] for n in range(0, len(people), batch)]
    for chunk in track(chunks, method, total=len(chunks), quiet=quiet):
        sources = [person.source for person in chunk]
        started = time.perf_counter()
        record = invert(
            pipe,
            [person.picture for person in chunk],
            sources,
            method=method,
            steps=steps,
            guidance=guidance,
            size=chunk[0].picture.size,
        )
        seconds += time.perf_counter() - started
        passes += record.passes * len(chunk)
        back += reconstruct(pipe, record)
    return back, {"passes": passes / len(people), "seconds": seconds / len(people)}


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ["", "PSNR, dB", "SSIM", "MSE", "feature distance", "PSNR to the autoencoder's", "passes", "s"]
    return markdown(
        header,
        [
            [
                row["inversion"],
                cell(row["psnr"], 2),
                cell(row["ssim"]),
                cell(row["mse"], 4),
                cell(row["features"]),
                "–" if row["inversion"] == CEILING else cell(row["to_ceiling"], 2),
                cell(row.get("passes"), 0),
                cell(row.get("seconds"), 1),
            ]
            for row in rows
        ],
    )
