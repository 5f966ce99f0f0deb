"""Reward feedback on people whom no training saw: what it rewarded, and what others say who were not asked.

    python benchmarks/id_aligner.py assets/instantid-mini runs/id-aligner/instantid

The same people, poses and seeds are drawn by an adapter before the training and after it, with the guidance
of users and without any (1), as in the training. ``reward`` is the network that the training rewarded
(dlib's); ``mini-judge`` said when to stop, on pictures of these people; ``mobilefacenet`` had no part at all.
Figures are own - others: the cosine to a person's other photos less that to other people's, pictures without
a face counting 0; differences are by person, with 95 % intervals. Needs the development data
(IDPERSONA_DATA) and weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from idpersona.adapters import load_adapter
from idpersona.eval.casting import cast_actors, person_seed
from idpersona.eval.finders import get_finder
from idpersona.eval.generation import Studio
from idpersona.eval.judges import get_judge
from idpersona.eval.protocol import Protocol
from idpersona.eval.scoring import known_people, score, sit
from idpersona.eval.statistics import paired_difference
from idpersona.eval.subjects import Subject, gather_subjects
from idpersona.eval.tables import cell, markdown
from idpersona.pipelines import load_base
from idpersona.pixels import to_tensor
from idpersona.training.data.archives import PhotoStore
from idpersona.training.objectives.face_reader import DLIB, FaceReader

WHEN = ("before", "after")


class Reward:
    """The network of the rewards, as judges are asked."""

    name = "reward (dlib)"

    def __init__(self) -> None:
        self.reader = FaceReader.open(DLIB)

    @torch.no_grad()
    def embed(self, images: Sequence[Image.Image], keypoints: Sequence[np.ndarray]) -> np.ndarray:
        """Unit embeddings float32 [images, 128]; one by one, as photos differ in size."""
        pairs = zip(images, keypoints, strict=True)
        rows = [self.reader(to_tensor([np.asarray(image)]), points[None])[0] for image, points in pairs]
        return torch.stack(rows).numpy()


def scores(folder: Path, subjects: Sequence[Subject], plan: Protocol, cache: Path) -> dict[str, np.ndarray]:
    """Figures of one adapter by person, float [people] each."""
    pipe, finder = load_base("mini"), get_finder("dlib")
    adapter = load_adapter(str(folder), base=pipe)
    studio = Studio(
        pipe, adapter, steps=plan.steps, guidance=plan.guidance, size=plan.size, batch=16, cache=cache
    )
    actors, unread = cast_actors(adapter, subjects, plan)
    if unread:
        raise SystemExit(f"people differ between the adapters: {unread}")
    shots = [actor.shot(plan.prompt, person_seed(plan, n), 1.0) for n, actor in enumerate(actors)]
    sitting = sit(str(folder), studio.draw(shots), range(len(actors)), finder, quiet=True)
    found: dict[str, np.ndarray] = {}
    judges: list[Any] = [Reward(), get_judge("mini-judge"), get_judge("mobilefacenet")]
    for judge in judges:
        result = score(sitting, judge, known_people(subjects, judge), plan)
        found[judge.name] = result.own - result.others
        found["faces found"] = result.detection
    return found


def main() -> None:
    """Draw, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--people", type=int, default=128)
    parser.add_argument("--cache", type=Path, default=Path("reports/cache"))
    given = parser.parse_args()
    plan = Protocol.load("methods").changed(people=given.people)
    subjects, _ = gather_subjects(plan, PhotoStore(), get_finder("dlib"), cache=given.cache)
    rows: list[list[str]] = []
    for guidance in given.guidance:
        at = plan.changed(guidance=guidance)
        before, after = (scores(folder, subjects, at, given.cache) for folder in (given.before, given.after))
        for name in before:
            values = [cell(plan.interval(found[name])) for found in (before, after)]
            gained = cell(paired_difference(after[name], before[name]))
            rows.append([f"{guidance:g}", name, *values, gained])
    print(markdown(["guidance", "", *WHEN, "after - before"], rows))


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
