"""How well the differentiable face descriptor tells people apart, beside dlib's own.

    python benchmarks/face_descriptor.py

Photos of the validation people, prepared by ``python -m idpersona.training.data.prepare``; as many pairs of
different people as of the same. Exits with 1 where it falls behind by more than 0.01 in the area under the
curve, or 3 points of accuracy.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from idpersona.encoders.differentiable import FaceDescriptor
from idpersona.pixels import to_tensor
from idpersona.training.data.faces import FaceData
from idpersona.training.objectives.judge import verification


def main() -> int:
    """Print the table; 1 where the wanted figures are missed."""
    faces, reader = FaceData.open("validation"), FaceDescriptor.load()
    begun = time.perf_counter()
    with torch.no_grad():
        rows = [reader(to_tensor([faces.photo(n)]), [faces.keypoints[n]]) for n in range(len(faces))]
    seconds = time.perf_counter() - begun
    read, truth = torch.cat(rows), torch.from_numpy(faces.descriptors) - reader.mean
    ours, dlib = verification(read, faces.identities), verification(truth, faces.identities)
    people, cosine = len(np.unique(faces.identities)), F.cosine_similarity(read, truth).mean()
    print(f"{len(faces)} photos of {people} people, {ours['pairs']} pairs")
    print(f"cosine to dlib's own {float(cosine):.4f}; {1000 * seconds / len(faces):.0f} ms a face")
    for name, figures in (("five keypoints, torch", ours), ("68 landmarks, dlib", dlib)):
        print(f"{name:24} AUC {figures['auc']:.4f}  accuracy {figures['accuracy']:.4f}")
    return int(ours["auc"] < dlib["auc"] - 0.01 or ours["accuracy"] < dlib["accuracy"] - 0.03)


if __name__ == "__main__":
    sys.exit(main())
