"""Personas of held-out people: what each identity loss brings, on photos that none of them was trained on.

    python benchmarks/personas.py reports/personas [--people 12] [--way portrait=identity:portrait ...]

For each person, a LoRA of the embedded model is trained on five photos once for each way (a name and the
fields of the recipe's objective that it changes), on the same pictures of the class and for the same steps.
Then each draws the same prompts and seeds. ``own`` is likeness to the person's *other* photos, ``trained``
that to one of the five, ``others`` that to everybody else's photos; prompts are asked for and against. All is
averaged by person, and ways are compared by person, with 95 % intervals. ``mini-judge`` and ``mobilefacenet``
take no part in the training. A finished training is not repeated; one that was interrupted goes on. Needs the
development data (IDPERSONA_DATA) and weights.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from idpersona.encoders.attributes import get_classifier
from idpersona.errors import BadInput
from idpersona.eval.finders import Finder, get_finder
from idpersona.eval.generation import Shot, Studio
from idpersona.eval.judges import get_judge
from idpersona.eval.metrics import balanced_hits
from idpersona.eval.protocol import Protocol
from idpersona.eval.scoring import known_people, score, sit
from idpersona.eval.statistics import paired_difference
from idpersona.eval.subjects import Subject, gather_subjects
from idpersona.eval.tables import cell, markdown
from idpersona.images import atomic_output
from idpersona.pipelines import load_base
from idpersona.provenance import COMPOSITE_TYPE, write_png
from idpersona.sheets import contact_sheet
from idpersona.training.data.archives import PhotoStore
from idpersona.training.run import recipe_file

TRAINED, JUDGES = 5, ("mini-judge", "mobilefacenet")
WAYS = {
    "dreambooth": {"identity": "none"},
    # As published: the loss at full weight, of the face that is found in the estimate.
    "id-booth": {"identity": "triplet", "align": "detect", "identity_weight": 1.0},
    "portrait": {},
}


def way(text: str) -> tuple[str, dict[str, Any]]:
    """``NAME=FIELD:VALUE,FIELD:VALUE`` as a way."""
    name, _, fields = text.partition("=")
    pairs = [field.partition(":") for field in fields.split(",") if field]
    return name, {field: yaml.safe_load(value) for field, _, value in pairs}


def held_out(people: int, skip: int, finder: Finder, cache: Path) -> list[Subject]:
    """People of whom there are photos beside the five; ``reference`` is one of the five."""
    plan = Protocol.load("methods").changed(people=people + skip, min_photos=TRAINED + 3)
    subjects, _ = gather_subjects(plan, PhotoStore(), finder, cache=cache)
    enough = [subject for subject in subjects if len(subject.others) > TRAINED]
    if len(enough) <= skip:
        raise BadInput(f"only {len(enough)} people have photos enough")
    return enough[skip:]


def write_photos(subject: Subject, folder: Path) -> None:
    """The five photos, as a user would lay them there."""
    for n, photo in enumerate((subject.reference, *subject.others[: TRAINED - 1])):
        path = folder / f"{n}.png"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            photo.image.save(path)


def write_recipe(place: Path, fields: dict[str, Any], photos: Path, steps: int | None) -> Path:
    """The built-in recipe with some ``fields`` of its objective changed."""
    recipe = yaml.safe_load(recipe_file("persona").read_text())
    recipe.pop("samples")
    recipe["objective"] |= {"photos": str(photos), "class_folder": str(place.parents[1] / "class"), **fields}
    recipe["loop"] |= {"trackers": [], "threads": 1} | ({} if steps is None else {"steps": steps})
    recipe["output"] = str(place)
    path = place.with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(recipe)
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise BadInput(f"{path} was trained with other settings: choose another output, or another name")
    path.write_text(text, encoding="utf-8")
    return path


def train(place: Path, recipe: Path) -> None:
    """Train, unless it is done."""
    if (place / "lora").is_dir():
        return
    resume = ["--resume"] if (place / "checkpoints").is_dir() else []
    command = [sys.executable, "-m", "idpersona.training", str(recipe), *resume]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if done.returncode:
        raise BadInput(f"{recipe}: {last}")
    print(f"trained {place}: {last}", file=sys.stderr, flush=True)


def as_taught(prompt: str) -> str:
    """A prompt of the protocol with the word that the person was taught under."""
    return prompt.replace("person", "sks person").replace("a sks", "sks")


@contextmanager
def taught(pipe: Any, lora: Path | None) -> Iterator[None]:
    """The pipeline with a LoRA, or as it is."""
    if lora is None:
        yield
        return
    pipe.load_lora_weights(lora)
    try:
        yield
    finally:
        pipe.unload_lora_weights()


class Drawings:
    """What is drawn of each person, in the same words and with the same seeds, and how it is scored."""

    def __init__(self, subjects: Sequence[Subject], finder: Finder, seeds: int, place: Path):
        self.plan, self.subjects, self.finder = Protocol.load("methods"), subjects, finder
        self.seeds, self.place = seeds, place
        self.pipe = load_base("mini")
        self.classifier = get_classifier("attr-judge")
        # Judged by what was not trained on.
        unseen = [replace(s, others=s.others[TRAINED - 1 :]) for s in subjects]
        self.judges = {name: get_judge(name) for name in JUDGES}
        self.known = {name: known_people(unseen, judge) for name, judge in self.judges.items()}

    def figures(self, way: str, loras: Sequence[Path | None]) -> tuple[dict[str, np.ndarray], list[Any]]:
        """Figures by person, float [people] each, and a picture of each person."""
        plan = self.plan
        numbers = [plan.seed * 1_000_003 + n for n in range(self.seeds)]
        pictures, owners, hits = [], [], {name: [] for name in plan.prompts.attributes}
        for person, lora in enumerate(loras):
            with taught(self.pipe, lora):
                studio = Studio(
                    self.pipe,
                    steps=plan.steps,
                    guidance=plan.guidance,
                    size=plan.size,
                    cache=self.place,
                    quiet=True,
                )
                drawn = studio.draw([Shot(as_taught(plan.prompt), seed) for seed in numbers])
                pictures += drawn
                owners += [person] * len(drawn)
                for name, asked in plan.prompts.attributes.items():
                    shown = [studio.draw([Shot(as_taught(p), s) for s in numbers]) for p in asked]
                    said = [self.classifier.says(row, name) for row in shown]
                    hits[name].append(float(balanced_hits(*said).mean()))
        sitting = sit(way, pictures, owners, self.finder, quiet=True)
        found = {f"prompt {name}": np.array(values) for name, values in hits.items()}
        found["prompts"] = np.mean(list(found.values()), axis=0)
        for name, judge in self.judges.items():
            scores = score(sitting, judge, self.known[name], plan)
            found |= {f"{name} own": scores.own, f"{name} own - others": scores.own - scores.others}
            found[f"{name} trained"] = scores.reference
            found["faces found"] = scores.detection
        return found, pictures[:: self.seeds]


def table(figures: dict[str, dict[str, np.ndarray]], plan: Protocol, first: str) -> str:
    """All figures by way, then differences to the way ``first``, by person."""
    others = [way for way in figures if way != first]
    rows: list[list[str]] = []
    for name in figures[first]:
        values = [cell(plan.interval(found[name])) for found in figures.values()]
        gained = [cell(paired_difference(figures[way][name], figures[first][name])) for way in others]
        rows.append([name, *values, *gained])
    return markdown(["", *figures, *[f"{way} - {first}" for way in others]], rows)


def main() -> None:
    """Train, draw, print the tables and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--skip", type=int, default=0, help="people left out first, for choosing settings")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--way", type=way, action="append", help="instead of all; see above")
    given = parser.parse_args()
    ways = dict(given.way or ()) or WAYS
    ways = {name: fields or WAYS.get(name, {}) for name, fields in ways.items()}
    place, finder = given.output.resolve(), get_finder("dlib")
    subjects = held_out(given.people, given.skip, finder, place)
    runs: list[tuple[Path, Path]] = []
    for subject in subjects:
        photos = place / subject.name / "photos"
        write_photos(subject, photos)
        for name, fields in ways.items():
            run = place / subject.name / name
            runs.append((run, write_recipe(run, fields, photos, given.steps)))
    # The first one draws the pictures of the class, for all.
    train(*runs[0])
    with ThreadPoolExecutor(given.workers) as pool:
        list(pool.map(train, *zip(*runs, strict=True)))
    drawings = Drawings(subjects, finder, given.seeds, place / "pictures")
    figures, strips = {}, [[s.reference.framed(128)[0] for s in subjects]]
    for name in ("base", *ways):
        loras = [None if name == "base" else place / s.name / name / "lora" for s in subjects]
        figures[name], strip = drawings.figures(name, loras)
        strips.append(strip)
        print(name, {key: round(float(v.mean()), 3) for key, v in figures[name].items()}, flush=True)
    told = table(figures, drawings.plan, next(iter(ways)))
    print(told)
    everything = {way: {key: v.tolist() for key, v in found.items()} for way, found in figures.items()}
    with atomic_output(place / "personas.json", force=True) as path:
        path.write_text(
            json.dumps(
                {"people": [s.name for s in subjects], "ways": ways, "steps": given.steps} | everything,
                indent=1,
            )
        )
    write_png(
        contact_sheet(strips, names=["photo", *figures]),
        place / "personas.png",
        {},
        force=True,
        source_type=COMPOSITE_TYPE,
    )


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
