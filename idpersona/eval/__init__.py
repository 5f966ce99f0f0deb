"""Measuring what adapters, inversions and edits do.

All evaluations share one frame. A *protocol* file fixes people, prompts, seeds and sizes; *judges* (encoders
that condition nothing and enter no loss) and *attribute classifiers* give the numbers; a *finder* says where
the face of a picture is, if there is one; intervals come from a bootstrap over people; each run writes one
JSON, one table and one contact sheet. Definitions follow ``idpersona.eval.metrics`` and are the only ones
used in claims.

| function | module |
| --- | --- |
| ``evaluate_identity`` | ``idpersona.eval.identity`` |
| ``evaluate_prompt`` | ``idpersona.eval.prompt`` |
| ``evaluate_pose`` | ``idpersona.eval.pose`` |
| ``evaluate_pairs`` | ``idpersona.eval.pairs`` |
| ``evaluate_sliders`` | ``idpersona.eval.sliders`` |
| ``evaluate_reconstruction`` | ``idpersona.eval.reconstruction`` |
| ``evaluate_inversion`` | ``idpersona.eval.inversion`` |
| ``evaluate_editing`` | ``idpersona.eval.editing`` |
| ``evaluate_pie_bench`` | ``idpersona.eval.pie_bench`` |
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from idpersona.eval.editing import evaluate_editing
    from idpersona.eval.identity import evaluate_identity
    from idpersona.eval.inversion import evaluate_inversion
    from idpersona.eval.pairs import evaluate_pairs
    from idpersona.eval.pie_bench import evaluate_pie_bench
    from idpersona.eval.pose import evaluate_pose
    from idpersona.eval.prompt import evaluate_prompt
    from idpersona.eval.reconstruction import evaluate_reconstruction
    from idpersona.eval.sliders import evaluate_sliders

__all__ = [
    "evaluate_editing",
    "evaluate_identity",
    "evaluate_inversion",
    "evaluate_pairs",
    "evaluate_pie_bench",
    "evaluate_pose",
    "evaluate_prompt",
    "evaluate_reconstruction",
    "evaluate_sliders",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(f"idpersona.eval.{name.removeprefix('evaluate_')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
