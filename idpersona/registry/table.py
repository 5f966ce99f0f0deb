"""Every set of weights by name. Hashes and sizes of files lie in ``manifest.json`` (see ``refresh.py``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import Any

from idpersona.registry.weight import Pin, Weight

RESEARCH = "research only, non-commercial (trained on CelebA and LFW photos; see assets/LICENSE)"
INSIGHTFACE = "InsightFace model licence: non-commercial research only"
MEASURING = "for measuring edits only (idpersona eval pie-bench)"
PACK_EYES = "BGR, detector at 640 px and smaller, 5 points, 112 px ArcFace crop, raw 512-d embedding"
SD_LAYOUT = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "text_encoder/config.json",
    "unet/config.json",
    "vae/config.json",
)


IP_ADAPTERS = (
    ("ip-adapter-sd15", "sd15", "h94/IP-Adapter:models", "ip-adapter_sd15.safetensors", "clip-h-embed"),
    (
        "ip-adapter-plus-sd15",
        "sd15",
        "h94/IP-Adapter:models",
        "ip-adapter-plus_sd15.safetensors",
        "clip-h-penultimate",
    ),
    (
        "ip-adapter-plus-face-sd15",
        "sd15",
        "h94/IP-Adapter:models",
        "ip-adapter-plus-face_sd15.safetensors",
        "clip-h-face-penultimate",
    ),
    (
        "ip-adapter",
        "sdxl",
        "h94/IP-Adapter:sdxl_models",
        "ip-adapter_sdxl_vit-h.safetensors",
        "clip-h-embed",
    ),
    ("faceid-sd15", "sd15", "h94/IP-Adapter-FaceID", "ip-adapter-faceid_sd15.bin", ""),
    (
        "faceid-plusv2-sd15",
        "sd15",
        "h94/IP-Adapter-FaceID",
        "ip-adapter-faceid-plusv2_sd15.bin",
        "clip-h-face-penultimate",
    ),
    ("faceid", "sdxl", "h94/IP-Adapter-FaceID", "ip-adapter-faceid_sdxl.bin", ""),
)
"""Name, base, hub id, file, and encoder of the picture ("" where only the face vector is read)."""


def _ip_adapter(name: str, base: str, source: str, file: str, picture: str) -> Weight:
    face = "faceid" in name
    reads = (("buffalo_l",) if face else ()) + ((picture,) if picture else ())
    return Weight(
        name=name,
        kind="adapter",
        place="hub",
        source=source,
        files=_unpinned(file),
        licence="needs InsightFace weights: non-commercial" if face else "Apache-2.0",
        commercial=not face,
        preprocessing=f"features of {', '.join(reads)}",
        needs=(base, *(("buffalo_l",) if face else ()), *(("clip-h",) if picture else ())),
        reads=reads,
    )


def _pins(name: str) -> dict[str, Pin]:
    manifest = json.loads(resources.files("idpersona.registry").joinpath("manifest.json").read_text("utf-8"))
    return {path: (pin["sha256"], pin["size"]) for path, pin in manifest.get(name, {}).items()}


def _unpinned(*paths: str) -> dict[str, Pin]:
    return dict.fromkeys(paths, (None, None))


def _embedded(name: str, folder: str, kind: Any, preprocessing: str, **more: Any) -> Weight:
    return Weight(
        name=name,
        kind=kind,
        place="embedded",
        source=folder,
        files=_pins(name),
        licence=RESEARCH,
        commercial=False,
        preprocessing=preprocessing,
        **more,
    )


def _build() -> Mapping[str, Weight]:
    face_crop = "RGB, face framed by its eyes (distance 0.30 of the width, eye line at 0.47 of the height)"
    weights = (
        _embedded(
            "mini",
            "mini",
            "base",
            "captions from the 40 CelebA attributes, at most 64 tokens; 128x128 pictures",
            defaults={
                "steps": 25,
                "guidance": 2.0,
                "edit_steps": 25,
                "edit_guidance": 5.0,
                "edit_strength": 0.8,
            },
        ),
        _embedded(
            "instantid-mini",
            "instantid-mini",
            "adapter",
            "raw 128-d dlib descriptor; 5 keypoints drawn with radius 3 and stick width 1 at 128x128",
            needs=("mini", "dlib"),
        ),
        _embedded(
            "mini-judge",
            "judge",
            "judge",
            "RGB in [-1, 1], five points aligned as for ArcFace, 64 px crop",
            note="for measuring only: conditions nothing, is in no loss",
        ),
        _embedded(
            "mini-vit",
            "mini-vit",
            "encoder",
            "RGB in [-1, 1], face framed by its eyes (distance 0.30, line 0.47), 128 px; 257 tokens of 128",
            needs=("dlib",),
        ),
        _embedded(
            "infinite-id-mini",
            "infinite-id-mini",
            "adapter",
            "mini-vit's hidden states and the raw 128-d dlib descriptor of one or more photos",
            needs=("mini", "dlib", "mini-vit"),
        ),
        _embedded(
            "mini-wplus",
            "mini-wplus",
            "encoder",
            "RGB in [-1, 1], face framed by its eyes (distance 0.30, line 0.47), 128 px; mini's latents",
            needs=("mini", "dlib"),
        ),
        _embedded(
            "wplus-mini",
            "wplus-mini",
            "adapter",
            "mini-wplus's codes of one or more photos",
            needs=("mini", "mini-wplus"),
        ),
        _embedded(
            "anymaker-mini",
            "anymaker-mini",
            "adapter",
            "mini-vit's tokens of a subject cut out of its photo",
            needs=("mini", "mini-vit"),
            reads=("mini-vit-object",),
        ),
        _embedded("labeler", "classifiers/labeler", "classifier", face_crop),
        _embedded("attr-judge", "classifiers/attr-judge", "classifier", face_crop, note="for measuring only"),
        Weight(
            name="dlib",
            kind="encoder",
            place="package",
            source="face_recognition_models",
            files=_pins("dlib"),
            licence=(
                "descriptor: CC0; 68-point file: trained on iBUG 300-W, whose licence excludes commercial use"
            ),
            commercial=False,
            preprocessing="RGB, HOG detector, 68 points, 150 px face chip, raw 128-d descriptor",
        ),
        Weight(
            name="antelopev2",
            kind="encoder",
            place="hub",
            source="DIAMONIK7777/antelopev2",
            files=_pins("antelopev2"),
            licence=INSIGHTFACE,
            commercial=False,
            preprocessing=PACK_EYES,
        ),
        Weight(
            name="buffalo_l",
            kind="encoder",
            place="hub",
            source="public-data/insightface:models/buffalo_l",
            files=_pins("buffalo_l"),
            licence=INSIGHTFACE,
            commercial=False,
            preprocessing=PACK_EYES,
        ),
        Weight(
            name="clip-h",
            kind="encoder",
            place="hub",
            source="h94/IP-Adapter:models/image_encoder",
            files=_unpinned("config.json", "model.safetensors"),
            licence="Apache-2.0 (OpenCLIP ViT-H/14, trained on LAION-2B)",
            commercial=True,
            preprocessing="RGB, CLIP's mean and spread, 224 px; 257 hidden states of 1280",
        ),
        Weight(
            name="mask2former",
            kind="encoder",
            place="hub",
            source="facebook/mask2former-swin-tiny-coco-panoptic",
            files=_unpinned("config.json", "model.safetensors"),
            licence="of its model card (trained on COCO): read it before any commercial use",
            commercial=False,
            preprocessing="RGB, ImageNet's mean and spread, 384 px; masks of objects",
            note="finds the subject of a photo, where --mask segment is asked for",
        ),
        Weight(
            name="e4e",
            kind="encoder",
            place="hand",
            source="https://github.com/csxmli2016/w-plus-adapter/releases/tag/v1",
            files=_unpinned("e4e_ffhq_encode.pt"),
            licence="S-Lab License 1.0 and StyleGAN2/FFHQ terms: non-commercial",
            commercial=False,
            preprocessing="RGB in [-1, 1], FFHQ alignment, head on white, 256 px; W+ code of 18 rows of 512",
        ),
        Weight(
            name="wplus-sd15",
            kind="adapter",
            place="hand",
            source="https://github.com/csxmli2016/w-plus-adapter/releases/tag/v1",
            files=_unpinned("wplus_adapter.bin"),
            licence="S-Lab License 1.0: non-commercial",
            commercial=False,
            preprocessing="W+ codes of e4e",
            needs=("sd15", "e4e"),
        ),
        *(_ip_adapter(*line) for line in IP_ADAPTERS),
        Weight(
            name="dinov2",
            kind="encoder",
            place="hub",
            source="facebook/dinov2-large",
            files=_unpinned("config.json", "preprocessor_config.json", "model.safetensors"),
            licence="Apache-2.0",
            commercial=True,
            preprocessing="RGB, ImageNet's mean and spread, subject on white, 224 px; 257 tokens of 1024",
        ),
        Weight(
            name="mae",
            kind="encoder",
            place="hub",
            source="facebook/vit-mae-large",
            files=_unpinned("config.json", "preprocessor_config.json", "model.safetensors"),
            licence="tagged Apache-2.0, but published under CC BY-NC 4.0 by its authors: non-commercial",
            commercial=False,
            preprocessing="RGB, ImageNet's mean and spread, subject on white, 224 px; 197 tokens of 1024",
        ),
        Weight(
            name="lpips-squeeze",
            kind="judge",
            place="hand",
            source=(
                "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth and "
                "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/squeeze.pth"
            ),
            files=_unpinned("squeezenet1_1-b8a52dc0.pth", "squeeze.pth"),
            licence="BSD-3-Clause (SqueezeNet of torchvision) and BSD-2-Clause (heads of LPIPS)",
            commercial=True,
            preprocessing="RGB in [-1, 1], LPIPS' own shift and scale; any size",
            note=MEASURING,
        ),
        Weight(
            name="dino-vitb8",
            kind="judge",
            place="hub",
            source="facebook/dino-vitb8",
            files=_unpinned("config.json", "model.safetensors"),
            licence="Apache-2.0",
            commercial=True,
            preprocessing="RGB in 0..255, then ImageNet's mean and spread, 224 px, as PIE-Bench has it",
            note=MEASURING,
        ),
        Weight(
            name="clip-vit-l14",
            kind="judge",
            place="hub",
            source="openai/clip-vit-large-patch14",
            files=_unpinned("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
            licence="MIT (repository of CLIP); its model card calls any deployed use out of scope",
            commercial=False,
            preprocessing="RGB, CLIP's mean and spread, 224 px; 77 tokens",
            note=MEASURING,
        ),
        Weight(
            name="sd15",
            kind="base",
            place="hub",
            source="stable-diffusion-v1-5/stable-diffusion-v1-5",
            files=_unpinned(
                *SD_LAYOUT,
                "feature_extractor/preprocessor_config.json",
                "safety_checker/config.json",
                "text_encoder/model.fp16.safetensors",
                "unet/diffusion_pytorch_model.fp16.safetensors",
                "vae/diffusion_pytorch_model.fp16.safetensors",
                "safety_checker/model.fp16.safetensors",
            ),
            licence="CreativeML Open RAIL-M (commercial use allowed, with use restrictions)",
            commercial=True,
            preprocessing="CLIP ViT-L/14 text, 77 tokens; 512x512 pictures",
            variant="fp16",
            defaults={"steps": 30, "guidance": 5.0},
        ),
        Weight(
            name="sdxl",
            kind="base",
            place="hub",
            source="stabilityai/stable-diffusion-xl-base-1.0",
            files=_unpinned(
                *SD_LAYOUT,
                "tokenizer_2/merges.txt",
                "tokenizer_2/special_tokens_map.json",
                "tokenizer_2/tokenizer_config.json",
                "tokenizer_2/vocab.json",
                "text_encoder_2/config.json",
                "text_encoder/model.fp16.safetensors",
                "text_encoder_2/model.fp16.safetensors",
                "unet/diffusion_pytorch_model.fp16.safetensors",
                "vae/diffusion_pytorch_model.fp16.safetensors",
            ),
            licence="CreativeML Open RAIL++-M (commercial use allowed, with use restrictions)",
            commercial=True,
            preprocessing="CLIP ViT-L/14 and OpenCLIP ViT-bigG/14 text, 77 tokens; 1024x1024 pictures",
            variant="fp16",
            defaults={"steps": 30, "guidance": 5.0},
        ),
        Weight(
            name="instantid",
            kind="adapter",
            place="hub",
            source="InstantX/InstantID",
            files=_unpinned(
                "ip-adapter.bin",
                "ControlNetModel/config.json",
                "ControlNetModel/diffusion_pytorch_model.safetensors",
            ),
            licence="tagged Apache-2.0, but its README says research only; needs InsightFace weights",
            commercial=False,
            preprocessing="raw 512-d antelopev2 embedding; 5 keypoints, radius 10, stick width 4",
            needs=("sdxl", "antelopev2"),
        ),
    )
    return MappingProxyType({weight.name: weight for weight in weights})


WEIGHTS: Mapping[str, Weight] = _build()
