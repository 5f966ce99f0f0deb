"""Names of all inversions, for those who show them before anything is loaded."""

from __future__ import annotations

NAMES = ("direct", "null-text", "negative-prompt", "proximal", "edict", "renoise", "ddim", "ledits")
"""In the order of :data:`idpersona.pipelines.inversion.methods.METHODS`."""
