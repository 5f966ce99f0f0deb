"""Jobs: pictures and edits as they are asked for, checked, drawn and recorded.

The command line and the studio are two ways to ask. What was asked is a request; ``prepare`` makes a job of
it, or refuses it, before a diffusion model is loaded; ``draw`` makes the pictures. Nothing here prints, and
files are named through :class:`~idpersona.jobs.sources.Sources`.
"""
