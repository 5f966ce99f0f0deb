"""The end of a run whose score, by a network that takes no part in it, rises no more.

What is learnt from one face network goes on rising by that network when it has long stopped to make faces
more alike. The score is taken of the averaged weights, before the first step and every so often; the run ends
after some looks without a better one, and what it exports are the weights with the best.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_SCORES, _BEST = "scores.json", "best.safetensors"


class Stopping:
    """Args:
    judge: name of the network, for messages.
    trained: whose best weights are kept.
    patience: looks without a better score that end the run.

    Attributes:
        scores: by the step they were taken after, in order.
    """

    def __init__(self, judge: str, trained: nn.Module, patience: int):
        self.judge, self.trained, self.patience = judge, trained, patience
        self.scores: dict[int, float] = {}
        self._best: dict[str, Tensor] = {}

    @property
    def best(self) -> int:
        """The step with the best score, the first of several."""
        return max(self.scores, key=lambda step: self.scores[step])

    def enough(self, step: int, score: Callable[[], float]) -> bool:
        """Take the score after ``step``, if it is not known, and say whether the run is to end.

        ``trained`` holds the averaged weights.
        """
        if step not in self.scores:
            self.scores[step] = value = score()
            if self.best == step:
                self._best = {
                    name: tensor.detach().cpu().clone() for name, tensor in self.trained.state_dict().items()
                }
            at = f"the best is {self.scores[self.best]:.4f} at step {self.best}"
            print(f"step {step}: {self.judge} gives {value:.4f}; {at}", file=sys.stderr, flush=True)
        late = sum(looked > self.best for looked in self.scores)
        return late >= self.patience

    def put_best(self) -> None:
        """Put the best weights into ``trained``; as they are when no score was taken."""
        if self._best:
            self.trained.load_state_dict(self._best)

    def save(self, folder: Path) -> None:
        """Write scores and best weights into a checkpoint's folder."""
        self.write_scores(folder)
        if self._best:
            save_file({name: value.contiguous() for name, value in self._best.items()}, folder / _BEST)

    def write_scores(self, folder: Path) -> None:
        """Write ``scores.json``: the judge, and its score by step."""
        table = {"judge": self.judge, "scores": {str(step): score for step, score in self.scores.items()}}
        (folder / _SCORES).write_text(json.dumps(table, indent=2))

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint; one without scores, or by another judge, has none."""
        path = folder / _SCORES
        table = json.loads(path.read_text()) if path.is_file() else {}
        if table.get("judge") == self.judge:
            self.scores = {int(step): float(score) for step, score in table["scores"].items()}
            self._best = load_file(folder / _BEST) if self.scores else {}
