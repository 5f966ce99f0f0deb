"""Prompt-to-Prompt: what an edit takes over of the photo, and how it is drawn."""
