"""Finding the face of a picture, for measuring: the largest one, or None.

``dlib`` ships with the project. ``yunet`` (Wu et al., Machine Intelligence Research 2023) conditions nothing
and is in no loss, so that keypoints it finds are an independent witness of pose; its file is for development.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from typing import Protocol as Interface

import numpy as np
from PIL import Image

from idpersona.errors import NoFaceFound, UnknownName
from idpersona.eval.weights import development_weight
from idpersona.hashing import weights_sha256
from idpersona.images import atomic_output

if TYPE_CHECKING:
    from idpersona.encoders.dlib_face import DlibFaceEncoder


@dataclass(frozen=True)
class Found:
    """Keypoints float32 [5, 2] in pixels (left eye, right eye, nose, mouth corners; left in the picture)."""

    keypoints: np.ndarray
    score: float


class Finder(Interface):
    """``find`` returns the largest face of an RGB image; None, never an error, when there is none."""

    @property
    def name(self) -> str: ...

    @property
    def weights_sha256(self) -> str: ...

    def find(self, image: Image.Image) -> Found | None: ...


class DlibFinder:
    """The five points of the project's dlib encoder."""

    name = "dlib"

    def __init__(self) -> None:
        from idpersona.encoders import get_encoder

        self._encoder = cast("DlibFaceEncoder", get_encoder("dlib"))
        self.weights_sha256 = self._encoder.finder_sha256

    def find(self, image: Image.Image) -> Found | None:
        try:
            faces = self._encoder.detect(image)
        except NoFaceFound:
            return None
        return Found(np.asarray(faces[0].keypoints, np.float32), float(faces[0].score)) if faces else None


class YuNetFinder:
    """YuNet through OpenCV: the mean of what it finds in six sizes of the picture and their mirror images.

    On close crops one view alone is off by more than what is to be measured: on real photos its points lie
    3.0 % of the width from dlib's, in the mean of all views 2.5 % (64 photos). Each view has a margin of
    repeated edge pixels, without which it is worse still. A face counts that half of the views show.
    """

    name = "yunet"
    _VIEWS, _MARGIN = (160, 224, 320, 400, 480, 640), 0.25

    def __init__(self, threshold: float = 0.5):
        import cv2

        path = development_weight("face_detection/yunet_n_dynamic.onnx")
        self.weights_sha256 = weights_sha256(path)
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(
            cv2.utils.logging.LOG_LEVEL_ERROR
        )  # OpenCV 5 warns about a default target
        try:
            self._detector = cv2.FaceDetectorYN.create(str(path), "", (320, 320), threshold)
        finally:
            cv2.utils.logging.setLogLevel(level)

    def find(self, image: Image.Image) -> Found | None:
        pixels = np.asarray(image.convert("RGB"))
        found = [self._look(pixels, side) for side in self._VIEWS]
        for side in self._VIEWS:
            mirrored = self._look(pixels[:, ::-1], side)
            if mirrored is not None:
                points = mirrored.keypoints[[1, 0, 2, 4, 3]]
                points[:, 0] = pixels.shape[1] - 1 - points[:, 0]
                mirrored = Found(points, mirrored.score)
            found.append(mirrored)
        faces = [face for face in found if face is not None]
        if 2 * len(faces) < len(found):
            return None
        points = np.mean([face.keypoints for face in faces], axis=0)
        return Found(points.astype(np.float32), float(np.mean([face.score for face in faces])))

    def _look(self, pixels: np.ndarray, side: int) -> Found | None:
        """The largest face of one view, ``side`` pixels long, in the picture's own pixels."""
        margin = round(self._MARGIN * max(pixels.shape))
        pixels = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
        factor = side / max(pixels.shape)
        width, height = round(pixels.shape[1] * factor), round(pixels.shape[0] * factor)
        view = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        self._detector.setInputSize((width, height))
        _, rows = self._detector.detect(np.ascontiguousarray(np.asarray(view)[:, :, ::-1]))
        if rows is None or len(rows) == 0:
            return None
        row = max(rows, key=lambda r: r[2] * r[3])
        # Enlarging maps pixel centres x -> factor * (x + 0.5) - 0.5; the points go back the same way.
        points = (row[4:14].reshape(5, 2) + 0.5) / factor - 0.5 - margin
        return Found(points.astype(np.float32), float(row[14]))


FINDERS: dict[str, Callable[[], Finder]] = {"dlib": DlibFinder, "yunet": YuNetFinder}


def get_finder(name: str) -> Finder:
    """A finder by name; raises UnknownName, or MissingWeights for one whose file is not on this machine."""
    if name not in FINDERS:
        raise UnknownName("face finder", name, FINDERS)
    return FINDERS[name]()


class RememberedFaces:
    """A finder for named real photos that asks once per photo and keeps the answers in a JSON file."""

    def __init__(self, finder: Finder, folder: Path | None):
        self.finder = finder
        self._path = folder / f"faces-{finder.name}-{finder.weights_sha256[:12]}.json" if folder else None
        self._known: dict[str, dict[str, Any] | None] = {}
        if self._path and self._path.is_file():
            self._known = json.loads(self._path.read_text(encoding="utf-8"))

    def find(self, file: str, image: Image.Image) -> Found | None:
        """The face of the photo called ``file``; ``image`` is looked at only the first time."""
        content = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
        key = f"{file} {content[:16]}"
        if key not in self._known:
            found = self.finder.find(image)
            self._known[key] = found and {"keypoints": found.keypoints.tolist(), "score": found.score}
        known = self._known[key]
        if known is None:
            return None
        return Found(np.asarray(known["keypoints"], np.float32), float(known["score"]))

    def save(self) -> None:
        """Write what is known, if there is a folder for it."""
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_output(self._path, force=True) as part:
                part.write_text(json.dumps(self._known), encoding="utf-8")
