"""Safety core: consent, the local registry of people, and the check on references and pictures."""

from __future__ import annotations

from idpersona.safety.gate import check_identity, check_photo, check_picture, read_allowed, require_consent
from idpersona.safety.people import Match, People, Person, load_people, people_path
from idpersona.safety.thresholds import Threshold, get_threshold

__all__ = [
    "Match",
    "People",
    "Person",
    "Threshold",
    "check_identity",
    "check_photo",
    "check_picture",
    "get_threshold",
    "load_people",
    "people_path",
    "read_allowed",
    "require_consent",
]
