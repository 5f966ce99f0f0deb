"""The contract's table: one row per adapter and base. A new adapter adds rows, no tests.

A row is a stock pipeline, an adapter that fits it, and two people. The generic tests in this folder run over
all rows and know of no method; what a row cannot do is declared in ``lacks``, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from idpersona.adapters import load_adapter
from idpersona.adapters.base import Adapter
from idpersona.adapters.instantid.adapter import InstantID
from idpersona.adapters.instantid.config import InstantIDConfig
from idpersona.identity import Feature, Identity
from idpersona.testing import anymaker, ip_adapter, tiny_components
from idpersona.testing.anymaker import tiny_anymaker
from idpersona.testing.infinite_id import tiny_infinite_id
from idpersona.testing.ip_adapter import tiny_faceid, tiny_ip_adapter
from idpersona.testing.wplus import tiny_wplus

PROMPT = "a photo of a smiling man"


@dataclass
class Row:
    """One row of the table.

    Attributes:
        seams: keys of ``scale`` that switch the adapter's parts.
        size: side of the canvas in pixels.
        features: what the adapter is told of a person: encoder -> (rows, length); empty if it keeps nobody.
        options: what ``attach`` needs besides.
        kind: of the identities it keeps.
        windows: it can be limited to a part of the steps.
        strong: a scale at which it shows beyond all rounding.
        lacks: test name -> reason why it does not apply.
    """

    name: str
    pipe: Any
    adapter: Adapter
    seams: tuple[str, ...]
    size: int
    features: dict[str, tuple[int, int]]
    options: dict[str, Any] = field(default_factory=dict)
    kind: str = "face"
    windows: bool = True
    strong: float = 2.0
    lacks: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "net" not in self.seams:
            self.lacks.setdefault("test_all_keypoints_are_on_one_canvas", "draws no keypoints")

    def person(self, seed: int) -> Identity | None:
        """Somebody (or something) made up, or None for an adapter that keeps no identity."""
        if not self.features:
            return None
        rng = np.random.default_rng(seed)
        features = {
            name: Feature(encoder=name, values=rng.standard_normal(shape).astype(np.float32), tokens=shape[0])
            for name, shape in self.features.items()
        }
        if self.kind != "face":
            return Identity(self.kind, features)
        shift = rng.uniform(-4, 4, size=2)
        face = np.array([[22, 24], [42, 24], [32, 34], [25, 44], [40, 44]]) * (self.size / 64) + shift
        return Identity(
            "face", features, keypoints=face.astype(np.float32), image_size=(self.size, self.size)
        )

    def attach(self, people: Any, *, pipe: Any = None, adapter: Any = None, **changes: Any) -> Any:
        """The scope of the row's adapter (or of ``adapter``) on the row's pipeline (or on ``pipe``)."""
        return (adapter or self.adapter).attach(pipe or self.pipe, people, **self.options | changes)

    def only(self, part: str, scale: float = 1.0) -> dict[str, float]:
        """The value of ``scale`` that leaves only one part of the adapter, or only layers of a pattern."""
        return dict.fromkeys(self.seams, 0.0) | {part: scale}

    def draw(self, pipe: Any = None, **changes: Any) -> torch.Tensor:
        """Final latents of one call of the stock pipeline."""
        pictures = len(changes["prompt"]) if isinstance(changes.get("prompt"), list) else 1
        pictures *= changes.get("num_images_per_prompt", 1)
        pipe = pipe or self.pipe
        call = {
            "prompt": PROMPT,
            "num_inference_steps": 3,
            "guidance_scale": 5.0,
            "height": self.size,
            "width": self.size,
            "output_type": "latent",
            # One generator per picture, so that a picture does not depend on its place in a batch.
            "generator": [torch.Generator().manual_seed(7) for _ in range(pictures)],
        } | changes
        if call["prompt"] is None:
            del call["prompt"]
        return pipe(**call).images


def _tiny_pipe(kind: str) -> Any:
    parts = tiny_components(kind)
    if kind == "sd15":
        parts["requires_safety_checker"] = False
    pipe = {"sd15": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}[kind](**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _mini_pipe() -> Any:
    assets = Path(str(resources.files("idpersona.assets")))
    pipe = DiffusionPipeline.from_pretrained(str(assets / "mini"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _pipe(base: str) -> tuple[Any, int]:
    """The pipeline of a base, and the side of its canvas."""
    return (_mini_pipe(), 128) if base == "mini" else (_tiny_pipe(base), 64)


def _instantid(base: str) -> Row:
    pipe, size = _pipe(base)
    if base == "mini":
        adapter: Any = load_adapter("instantid", base=pipe)
    else:
        parts = tiny_components(f"instantid-{base}")
        own = {name: parts[name] for name in ("projector", "cross_attention", "controlnet")}
        sizes = {name: own["projector"].config[name] for name in InstantIDConfig().projector_sizes()}
        config = InstantIDConfig(**sizes, kps_radius=3, kps_stick_width=1)
        adapter = InstantID(own["projector"], own["cross_attention"], own["controlnet"], config)
    features = {adapter.config.encoder: (1, adapter.config.embedding_dim)}
    return Row(f"instantid-{base}", pipe, adapter, ("identity", "net"), size, features)


def _infinite_id(base: str) -> Row:
    pipe, size = _pipe(base)
    adapter: Any = load_adapter("infinite-id", base=pipe) if base == "mini" else tiny_infinite_id(pipe.unet)
    config = adapter.config
    features = {
        config.face_encoder: (1, config.face_dim),
        config.image_encoder: (config.image_tokens, config.image_dim),
    }
    lacks = {
        "test_guidance_leads_to_nobody_where_the_prompts_are_one": "its second stream has "
        "guidance of its own",
        "test_each_part_acts_alone": "mixed attention reads a stream that differs by the identity alone: "
        "without an identity it changes nothing, by construction",
        **NO_NET,
        **NOT_PUBLISHED,
    }
    return Row(f"infinite-id-{base}", pipe, adapter, ("identity", "mixed"), size, features, lacks=lacks)


def _wplus(base: str) -> Row:
    pipe, size = _pipe(base)
    adapter: Any = load_adapter("wplus", base=pipe) if base == "mini" else tiny_wplus(pipe.unet)
    config = adapter.config
    features = {config.encoder: (config.rows, config.dim)}
    # A delay would hide the adapter in the few steps of these tests.
    options = {"delay": 0.0}
    return Row(f"wplus-{base}", pipe, adapter, ("identity",), size, features, options, lacks=dict(NO_NET))


def _anymaker(base: str) -> Row:
    pipe, size = _pipe(base)
    if base == "mini":
        adapter: Any = load_adapter("anymaker", base=pipe)
        features = {adapter.encoders[0]: (257, adapter.config.dims[0])}
    else:
        adapter = tiny_anymaker(pipe.unet)
        sizes = zip(anymaker.TOKENS, anymaker.DIMS, strict=True)
        features = dict(zip(adapter.encoders, sizes, strict=True))
    lacks = {
        "test_the_unconditional_half_sees_the_zero_vector": "the prompt must name the object: an empty one "
        "has no place for its token",
        "test_prompt_embeds": "the object's token takes a word's place, and embeddings hold no words",
        **EDITS_PROMPTS,
        "test_a_full_mask_is_no_mask": "with a mask the object's word in the text is left alone: it has no "
        "place on the canvas",
        "test_scale_by_layer_pattern": "touches the up blocks only",
        **NO_NET,
        **NOT_PUBLISHED,
    }
    seams = ("identity", "global")
    return Row(f"anymaker-{base}", pipe, adapter, seams, size, features, kind="object", lacks=lacks)


def _ip_adapter(base: str) -> Row:
    pipe, size = _pipe(base)
    adapter = tiny_ip_adapter(pipe.unet)
    features = {"clip-h-embed": (1, ip_adapter.IMAGE_DIM)}
    return Row(f"ip-adapter-{base}", pipe, adapter, ("identity",), size, features, lacks=dict(NO_NET))


def _faceid(base: str) -> Row:
    pipe, size = _pipe(base)
    adapter = tiny_faceid(pipe.unet)
    features = {"buffalo_l": (1, ip_adapter.FACE_DIM)}
    lacks = {
        "test_a_full_mask_is_no_mask": "with a mask its LoRA is left out: it changes the whole picture",
        **NO_NET,
    }
    return Row(f"faceid-{base}", pipe, adapter, ("identity", "lora"), size, features, lacks=lacks)


def _decor(base: str) -> Row:
    pipe, size = _pipe(base)
    options = {"prompt": "pencil drawing with straw hats and clouds"}
    lacks = {
        **dict.fromkeys(
            (
                "test_two_identities_are_each_as_alone",
                "test_pictures_of_one_prompt_lie_next_to_each_other",
                "test_the_unconditional_half_sees_the_zero_vector",
                "test_a_number_of_pictures_that_cannot_be_shared_is_refused",
                "test_an_identity_is_needed",
                "test_an_identity_read_by_another_encoder",
                "test_features_of_another_size",
                "test_a_region_outside_of_the_canvas_or_empty",
                "test_somebody_who_is_nobody",
                "test_one_person_on_the_whole_canvas_is_the_single_person_path",
                "test_each_person_acts_in_its_own_region_only",
                "test_two_people_differ_from_one_and_leave_no_trace",
                "test_pictures_of_a_batch_each_hold_everybody",
                "test_regions_that_are_none",
                "test_regions_and_a_mask_are_one_too_many",
            ),
            "keeps no identity",
        ),
        **dict.fromkeys(
            (
                "test_an_all_zero_mask_is_the_base",
                "test_a_full_mask_is_no_mask",
                "test_outside_the_mask_the_added_term_is_exactly_zero",
                "test_a_window_that_is_never_open_or_always_open",
                "test_the_window_opens_at_the_step_that_was_asked_for",
                "test_each_part_acts_alone",
                "test_scale_by_layer_pattern",
            ),
            "edits the text before the first step: it has no place on the canvas, no steps and no layers",
        ),
        **dict.fromkeys(
            (
                "test_a_failing_attach_leaves_nothing_behind",
                "test_a_processor_set_meanwhile_is_never_overwritten",
                "test_attaching_over_a_replaced_processor_is_refused",
                "test_the_users_own_processors_come_back",
                "test_attention_slicing",
            ),
            "touches no attention layer",
        ),
        **dict.fromkeys(
            (
                "test_a_checkpoint_that_does_not_fit_names_the_keys",
                "test_damaged_files_are_refused",
                "test_an_adapter_of_another_base_is_refused",
                "test_a_checkpoint_of_another_base",
                "test_an_interrupted_save_leaves_what_was_there",
                *NOT_PUBLISHED,
            ),
            "has no weights",
        ),
        **EDITS_PROMPTS,
        **NO_NET,
    }
    return Row(
        f"decor-{base}",
        pipe,
        load_adapter("decor"),
        (),
        size,
        {},
        options,
        windows=False,
        strong=1.0,
        lacks=lacks,
    )


NOT_PUBLISHED = dict.fromkeys(
    ("test_an_export_is_the_same_adapter_again", "test_an_export_replaces_nothing_but_an_export"),
    "no layout of it has been published",
)
EDITS_PROMPTS = dict.fromkeys(
    (
        "test_a_photo_is_edited_in_the_scope_it_was_inverted_in",
        "test_guidance_leads_to_nobody_where_the_prompts_are_one",
    ),
    "edits prompts, and photos are inverted with plain ones",
)
NO_NET = {"test_a_part_that_is_gone_is_not_kept_in_the_folder": "has no part that may be missing"}
METHODS: dict[str, Callable[[str], Row]] = {
    "instantid": _instantid,
    "infinite-id": _infinite_id,
    "wplus": _wplus,
    "anymaker": _anymaker,
    "ip-adapter": _ip_adapter,
    "faceid": _faceid,
    "decor": _decor,
}
NO_MINI = ("ip-adapter", "faceid")
"""Methods that are read from published files only: there are no weights of them for mini."""
BASES = ("mini", "sd15", "sdxl")
ROWS: dict[str, Callable[[], Row]] = {
    f"{method}-{base}": partial(METHODS[method], base)
    for method in METHODS
    for base in BASES
    if base != "mini" or method not in NO_MINI
}


@cache
def _row(name: str) -> Row:
    return ROWS[name]()


@pytest.fixture(scope="session")
def all_rows() -> dict[str, Row]:
    """The whole table: name -> row."""
    return {name: _row(name) for name in ROWS}


@pytest.fixture(params=list(ROWS))
def row(request: pytest.FixtureRequest) -> Row:
    """Each row in turn. The pipeline is shared by all tests of a row: attaching must leave no trace."""
    found = _row(request.param)
    test = request.node.originalname
    if test in found.lacks:
        pytest.skip(found.lacks[test])
    return found


@pytest.fixture
def new_row(request: pytest.FixtureRequest) -> Callable[[Row], Row]:
    """A row of its own for a test that changes the pipeline for good."""
    return lambda row: ROWS[row.name]()
