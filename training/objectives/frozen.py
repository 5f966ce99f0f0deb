"""Networks that stay as they are while something beside them is trained."""

from __future__ import annotations

from typing import Any

import torch

from idpersona.checkpoint import load_component
from idpersona.training.weights import require_folder


def frozen(component: Any, folder: str, what: str, recipe: str) -> Any:
    """A trained network of class ``component`` in ``folder``, float32, without gradients.

    Raises MissingWeights naming the ``recipe`` that makes it.
    """
    path = require_folder(folder, what, recipe)
    if hasattr(component, "load_config"):
        return load_component(component, path).float().requires_grad_(False).eval()
    return component.from_pretrained(path, dtype=torch.float32).requires_grad_(False).eval()
