"""``eval reconstruction``: how much of a photo survives the base's autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idpersona.eval.autoencoder import psnr, roundtrip, ssim
from idpersona.eval.finders import Finder
from idpersona.eval.protocol import Protocol
from idpersona.eval.report import Report
from idpersona.eval.sheets import contact_sheet
from idpersona.eval.statistics import bootstrap
from idpersona.eval.subjects import one_photo_each
from idpersona.eval.tables import cell, markdown
from idpersona.eval.weights import modules_sha256
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
    values = [
        {"file": photo.file, "psnr": psnr(a, b), "ssim": ssim(a, b)}
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
            ("photos", "number", "PSNR, dB", "SSIM"),
            [[row["photos"], row["psnr"].n, cell(row["psnr"], 2), cell(row["ssim"])] for row in rows],
        ),
        failures=failures,
        sheet=_sheet(framed, decoded),
    )


def _row(name: str, values: list[dict[str, Any]], protocol: Protocol) -> dict[str, Any]:
    samples, seed = protocol.bootstrap_samples, protocol.seed
    return {
        "photos": name,
        "psnr": bootstrap([v["psnr"] for v in values], samples=samples, seed=seed),
        "ssim": bootstrap([v["ssim"] for v in values], samples=samples, seed=seed),
    }


def _sheet(framed: list[Image.Image], decoded: list[Image.Image], limit: int = 16) -> Image.Image:
    return contact_sheet(
        [[a, b] for a, b in zip(framed[:limit], decoded[:limit], strict=True)], columns=("photo", "decoded")
    )
