"""InsightFace packs: SCRFD detector and ArcFace recognition, run by the ``insightface`` package.

The embedding is kept as the network gives it, **not** normalised, because InstantID was trained on that. The
packs are for non-commercial research only. They are read from a folder; nothing here reaches the network.
Papers: SCRFD (arXiv:2105.04714), ArcFace (arXiv:1801.07698).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idpersona.encoders.alignment import align
from idpersona.encoders.base import Face, Faces, Measure
from idpersona.encoders.files import folder_with_onnx, pack_folders, sha256_of
from idpersona.encoders.ladder import Rung, View, look
from idpersona.errors import MissingWeights
from idpersona.registry import WEIGHTS
from idpersona.registry.locate import still_packed

LADDER = (Rung(640), Rung(448), Rung(320), Rung(640, 0.5), Rung(320, 0.5), Rung(1280))
DETECTION_THRESHOLD = 0.5
log = logging.getLogger(__name__)


class InsightFaceEncoder:
    """Faces by one InsightFace pack."""

    normalised = False
    licence = "InsightFace model licence: non-commercial research only"
    measure: Measure = "cosine"
    # Common practice for ArcFace embeddings of photos in the wild; not calibrated by us.
    threshold = 0.4
    sure_score = 0.6

    def __init__(self, name: str, folder: str | Path | None = None, providers: Sequence[str] | None = None):
        """Load pack ``name`` from ``folder``, else from where the registry keeps it.

        Args:
            providers: onnxruntime providers in order of preference; CUDA and CPU, where present, when None.

        Raises:
            MissingWeights: pack not found (the folders looked in are named), damaged, or not a face pack.
        """
        self.name = name
        folders = [Path(folder)] if folder is not None else pack_folders(name)
        place = folder_with_onnx(folders, name)
        if place is None:
            looked = ", ".join(str(path) for path in folders) + still_packed(folders)
            raise MissingWeights(
                f"encoder '{name}' needs the InsightFace pack '{name}' (*.onnx); looked in {looked}: "
                f"run idpersona models pull {name}, or put the files into {folders[0]}"
            )
        self.folder = place
        wanted = list(providers) if providers is not None else _default_providers()
        models = _load(place, wanted)
        self._detector, self._recogniser = models["detection"], models["recognition"]
        self.dim = int(self._recogniser.output_shape[-1])
        self.weights_sha256 = sha256_of(Path(self._recogniser.model_file))
        _check_pack(name, self.weights_sha256, place)
        side = self._recogniser.input_size[0]
        self.preprocessing = f"BGR, 5 points, {side} px ArcFace crop, not normalised"
        if self.provider != wanted[0]:
            log.warning("encoder '%s' was to run on %s but runs on %s", name, wanted[0], self.provider)

    @property
    def provider(self) -> str:
        """The onnxruntime provider that the recognition network really runs on."""
        return str(self._recogniser.session.get_providers()[0])

    def detect(self, image: Image.Image) -> Faces:
        """Faces, largest first; climbs :data:`LADDER` until one is found."""
        sizes: list[int] = []
        for rung in LADDER:
            view = look(image, rung)
            if view is None:
                continue
            sizes.append(rung.long_side)
            faces = self._faces(view, rung.long_side)
            if faces:
                return Faces(faces, sizes)
        return Faces((), sizes)

    def _faces(self, view: View, size: int) -> list[Face]:
        bgr = np.ascontiguousarray(view.pixels[..., ::-1])
        boxes, points = self._detector.detect(bgr, input_size=(size, size), det_thresh=DETECTION_THRESHOLD)
        if points is None:
            return []
        faces = []
        for box, kps in zip(boxes, points, strict=True):
            (x0, y0), (x1, y1) = view.to_photo(box[:4].reshape(2, 2)).tolist()
            keypoints = view.to_photo(kps).astype(np.float32)
            if np.isfinite(box).all() and np.isfinite(keypoints).all() and x1 > x0 and y1 > y0:
                faces.append(Face((x0, y0, x1, y1), keypoints, float(box[4])))
        return faces

    def embed(self, image: Image.Image, face: Face) -> np.ndarray:
        """float32 ``[dim]``, not normalised."""
        # Our alignment instead of the package's: the same crop, without a call that scikit-image will drop.
        crop = np.asarray(align(image, face.keypoints, self._recogniser.input_size[0]))
        bgr = np.ascontiguousarray(crop[..., ::-1])
        return np.array(self._recogniser.get_feat(bgr), dtype=np.float32).reshape(-1)

    def embed_many(self, images: Sequence[Image.Image], faces: Sequence[Face]) -> np.ndarray:
        """float32 ``[n, dim]``, one after the other: some published networks take a batch of one only."""
        if not images:
            return np.zeros((0, self.dim), dtype=np.float32)
        return np.stack([self.embed(image, face) for image, face in zip(images, faces, strict=True)])


def _default_providers() -> list[str]:
    import onnxruntime

    available = onnxruntime.get_available_providers()
    return [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in available]


def _load(place: Path, providers: list[str]) -> dict[str, Any]:
    try:
        from insightface.app import FaceAnalysis
    except ImportError as error:
        raise MissingWeights(f"the package insightface does not import: {error}") from error
    try:
        # An existing folder as name is taken as it is; any other name would be downloaded.
        analysis = FaceAnalysis(
            name=str(place.resolve()),
            allowed_modules=["detection", "recognition"],
            providers=providers,
            static_shape_sessions=False,  # one session for all sizes instead of one for each rung
        )
        analysis.prepare(ctx_id=0, det_thresh=DETECTION_THRESHOLD, det_size=(640, 640))
    except AssertionError as error:  # its way of saying that no file is a detector
        raise MissingWeights(f"the InsightFace pack in {place} holds no detection network") from error
    except Exception as error:  # onnxruntime's errors have no common base
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise MissingWeights(f"the InsightFace pack in {place} cannot be loaded: {reason}") from error
    if "recognition" not in analysis.models:
        raise MissingWeights(f"the InsightFace pack in {place} holds no recognition network")
    return dict(analysis.models)


def _check_pack(name: str, sha256: str, place: Path) -> None:
    """Refuse another pack's recognition network: its vectors look alike and mean something else."""
    known = {sha: w.name for w in WEIGHTS.values() if w.kind == "encoder" for sha, _ in w.files.values()}
    is_pack = known.get(sha256)
    if is_pack not in (None, name):
        raise MissingWeights(f"{place} holds the pack '{is_pack}', not '{name}': give the folder of '{name}'")
    if is_pack is None:
        log.warning("the recognition network in %s is not that of the published pack '%s'", place, name)


def antelopev2(**options: Any) -> InsightFaceEncoder:
    """The pack that InstantID was trained on (SCRFD-10G, ArcFace R100, 512-d)."""
    return InsightFaceEncoder("antelopev2", **options)


def buffalo_l(**options: Any) -> InsightFaceEncoder:
    """InsightFace's usual pack (SCRFD-10G, ArcFace R50, 512-d); not InstantID's embedding space."""
    return InsightFaceEncoder("buffalo_l", **options)
