"""Inversions by name: the noise from which a pipeline draws a given photo, and the way back."""
