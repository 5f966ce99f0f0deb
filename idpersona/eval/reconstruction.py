"""``eval reconstruction``: how much of a photo survives the base's autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idpersona.eval.autoencoder import roundtrip
from idpersona.eval.finders import Finder
from idpersona.eval.metrics import person_means
from idpersona.eval.pictures import psnr, ssim
from idpersona.eval.protocol import Protocol
from idpersona.eval.report import Report
from idpersona.eval.subjects import one_photo_each
from idpersona.eval.tables import cell, markdown
from idpersona.eval.weights import modules_sha256
from idpersona.sheets import contact_sheet
from idpersona.training.data.archives import PhotoStore


def evaluate_reconstruction(
    pipe: Any,
    protocol: Protocol,
    *,
    finder: Finder,
    store: PhotoStore,
    cache: Path | None = None,
    quiet: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Report:
    """PSNR (dB) and SSIM of held-out photos, framed at ``protocol.size``, through ``pipe.vae``.

    Rows: all photos, and one per source (the folder that photo names start with), because small crops that
    the framing enlarges are soft and easy to reproduce.
    """
    count = protocol.reconstruction_photos
    photos, failures = one_photo_each(protocol, store, finder, count, cache=cache, quiet=quiet)
    framed = [photo.framed(protocol.size)[0] for photo in photos]
    decoded = roundtrip(pipe, framed)
    person = {file: name for name, files in protocol.split_people().items() for file in files}
    values = [
        {"file": photo.file, "identity": person[photo.file], "psnr": psnr(a, b), "ssim": ssim(a, b)}
        for photo, a, b in zip(photos, framed, decoded, strict=True)
    ]
    sources = np.array([str(value["file"]).split("/")[0] for value in values])
    rows = [_row("all", values, protocol)]
    rows += [
        _row(source, [v for v, s in zip(values, sources, strict=True) if s == source], protocol)
        for source in sorted(set(sources))
    ]
    return Report(
        kind="reconstruction",
        settings=protocol.record(settings),
        weights={"vae": modules_sha256({"vae": pipe.vae}), f"finder:{finder.name}": finder.weights_sha256},
        rows=rows,
        people=values,
        table=markdown(
            ("photos", "number", "people", "PSNR, dB", "SSIM"),
            [
                [row["photos"], row["number"], row["psnr"].n, cell(row["psnr"], 2), cell(row["ssim"])]
                for row in rows
            ],
        ),
        failures=failures,
        sheet=_sheet(framed, decoded),
    )


def _row(name: str, values: list[dict[str, Any]], protocol: Protocol) -> dict[str, Any]:
    """Means over people, each the mean of the person's photos: two photos of one are no two observations."""
    people, owners = np.unique([v["identity"] for v in values], return_inverse=True)

    def interval(key: str) -> Any:
        means = person_means(np.array([v[key] for v in values]), owners, len(people))
        return protocol.interval(means)

    return {"photos": name, "number": len(values), "psnr": interval("psnr"), "ssim": interval("ssim")}


def _sheet(framed: list[Image.Image], decoded: list[Image.Image], limit: int = 16) -> Image.Image:
    return contact_sheet(
        [[a, b] for a, b in zip(framed[:limit], decoded[:limit], strict=True)], columns=("photo", "decoded")
    )
