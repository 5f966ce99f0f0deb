"""Encoders of many rows: vision transformers, W+ codes, crops, and subjects cut out of photos."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from PIL import Image, ImageDraw
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    ViTMAEConfig,
    ViTMAEModel,
)

from idpersona import Identity, read_identity
from idpersona.encoders import encoder_names, register_encoder, release_encoders, similarity
from idpersona.encoders.aligned import AlignedFace, eyes_at, ffhq_head
from idpersona.encoders.alignment import FACE_UNITS, ffhq_face, frame_face
from idpersona.encoders.e4e import E4EEncoder, E4EModel
from idpersona.encoders.masks import head_mask
from idpersona.encoders.style import StyleDecoder, StyleEncoder, StyleModel
from idpersona.encoders.subject import cut_out
from idpersona.encoders.vit import ObjectTokens, TokenModel
from idpersona.errors import BadInput, CheckpointError, MissingWeights, NoFaceFound

SHARED = Path(os.environ.get("IDPERSONA_SHARED", Path(__file__).parents[2] / "shared"))
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
KINDS: dict[str, Any] = {
    "vit_mae": lambda: ViTMAEModel(ViTMAEConfig(image_size=32, patch_size=8, **SMALL)),
    "dinov2": lambda: Dinov2Model(
        Dinov2Config(image_size=28, patch_size=14, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    ),
    "clip": lambda: CLIPVisionModel(CLIPVisionConfig(image_size=32, patch_size=16, **SMALL)),
}
EXPECTED = {"vit_mae": (32, 17), "dinov2": (28, 5), "clip": (32, 5)}


def noise(size: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(params=list(KINDS))
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    torch.manual_seed(0)
    KINDS[request.param]().save_pretrained(tmp_path)
    return request.param, tmp_path


def test_tokens_of_every_kind_of_transformer(saved: tuple[str, Path]) -> None:
    """Class token first, then the patches in their order: a change in one corner stays in that corner's token
    in the first layers' view, and two readings are equal bit for bit."""
    kind, folder = saved
    model = TokenModel(kind, folder)
    side, tokens = EXPECTED[kind]
    assert (model.side, model.tokens, model.dim) == (side, tokens, 16)
    picture = noise(side)
    one = model([picture])
    assert one.shape == (1, tokens, 16) and one.dtype == np.float32
    assert np.array_equal(one, TokenModel(kind, folder)([picture]))
    assert np.allclose(model([noise(side, 5), picture])[1], one[0], atol=1e-5)


def test_mae_keeps_every_patch_in_its_place(tmp_path: Path) -> None:
    """transformers' own noise would shuffle them, even with nothing masked."""
    torch.manual_seed(0)
    model = ViTMAEModel(ViTMAEConfig(image_size=32, patch_size=8, **SMALL | {"num_hidden_layers": 0}))
    model.save_pretrained(tmp_path)
    tokens = TokenModel("mae", tmp_path)
    plain = np.full((32, 32, 3), 128, np.uint8)
    dotted = plain.copy()
    dotted[8:16, 16:24] = 255  # the seventh patch of four by four
    a, b = (tokens([Image.fromarray(p)])[0] for p in (plain, dotted))
    assert np.flatnonzero(np.abs(a - b).max(axis=1) > 1e-6).tolist() == [7]


def test_the_size_can_be_chosen_where_the_model_takes_several(tmp_path: Path) -> None:
    torch.manual_seed(0)
    KINDS["dinov2"]().save_pretrained(tmp_path)
    model = TokenModel("dinov2", tmp_path, side=56)
    assert model([noise(56)]).shape == (1, 17, 16) and model.tokens == 17


def test_colours_are_those_of_the_preprocessor(tmp_path: Path) -> None:
    torch.manual_seed(0)
    KINDS["clip"]().save_pretrained(tmp_path)
    plain = TokenModel("clip", tmp_path)([noise(32)])
    stated = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    assert not np.allclose(TokenModel("clip", tmp_path)([noise(32)]), plain, atol=1e-3)


def test_without_a_preprocessor_clip_has_its_own_colours(tmp_path: Path) -> None:
    """The image encoder that is published with IP-Adapter comes without one."""
    torch.manual_seed(0)
    for kind, mean in (("clip", 0.48145466), ("dinov2", 0.485)):
        KINDS[kind]().save_pretrained(tmp_path / kind)
        assert TokenModel(kind, tmp_path / kind).colours[0][0] == mean


def test_missing_and_damaged_weights(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="models pull dinov2"):
        TokenModel("dinov2", tmp_path)
    KINDS["clip"]().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(MissingWeights, match="clip"):
        _ = TokenModel("clip", tmp_path).dim


def face_photo(
    size: tuple[int, int] = (300, 260), at: tuple[float, float] = (150, 110), unit: float = 60
) -> Any:
    """A drawn head, and its five points."""
    points = FACE_UNITS * unit + np.array(at)
    photo = Image.new("RGB", size, (30, 90, 160))
    pen = ImageDraw.Draw(photo)
    pen.ellipse(
        (at[0] - 1.2 * unit, at[1] - 1.4 * unit, at[0] + 1.2 * unit, at[1] + 1.9 * unit), fill=(220, 170, 140)
    )
    for x, y in points:
        pen.ellipse((x - 5, y - 5, x + 5, y + 5), fill=(10, 10, 10))
    return photo, points.astype(np.float32)


def test_a_face_is_framed_by_its_eyes() -> None:
    photo, points = face_photo()
    framed = np.asarray(frame_face(photo, points, 128, eye_distance=0.30, eye_line=0.47))
    for x in (0.35, 0.65):
        assert framed[round(0.47 * 128), round(x * 128)].max() < 60
    large, far = face_photo((1500, 1300), (750, 550), 300)
    shrunk = np.asarray(frame_face(large, far, 128, eye_distance=0.30, eye_line=0.47), dtype=float)
    middle = slice(40, 100)
    assert np.abs(shrunk[middle, middle] - framed[middle, middle]).mean() < 6


def test_ffhq_alignment_by_its_own_definition() -> None:
    """The quad of the published code: corners by the vectors x and y around c."""
    photo, points = face_photo()
    turned = photo.rotate(12, expand=False, fillcolor=(30, 90, 160), center=(150, 110))
    angle = np.deg2rad(-12)
    spin = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    tilted = (points - [150, 110]) @ spin.T + [150, 110]
    eyes, mouth = tilted[:2].mean(0), tilted[3:].mean(0)
    across, down = tilted[1] - tilted[0], mouth - eyes
    x = across - np.array([-down[1], down[0]])
    x *= max(np.hypot(*across) * 2.0, np.hypot(*down) * 1.8) / np.hypot(*x)
    y = np.array([-x[1], x[0]])
    c = eyes + down * 0.1
    quad = np.stack([c - x - y, c - x + y, c + x + y, c + x - y])
    expected = turned.transform(
        (256, 256), Image.Transform.QUAD, (quad + 0.5).flatten(), Image.Resampling.BICUBIC
    )
    got = ffhq_face(turned, tilted, 256)
    inner = slice(40, 216)
    difference = np.abs(np.asarray(expected, float)[inner, inner] - np.asarray(got, float)[inner, inner])
    assert difference.mean() < 3


def test_the_head_mask_turns_and_grows_with_the_face() -> None:
    photo, points = face_photo()
    mask = head_mask(photo.size, points)
    assert mask.shape == (260, 300) and set(np.unique(mask)) == {0.0, 1.0}
    assert mask[110, 150] == 1 and mask[5, 5] == 0
    half = head_mask((150, 130), points / 2)
    assert abs(half.mean() - mask.mean()) < 0.01
    with pytest.raises(BadInput):
        head_mask((10, 10), np.zeros((5, 2)))


def test_a_subject_is_cut_out_on_white() -> None:
    photo = noise(60)
    mask = np.zeros((60, 60), np.float32)
    mask[10:30, 20:50] = 1
    cut = np.asarray(cut_out(photo, mask))
    assert cut.shape[0] == cut.shape[1] == 33  # 30 pixels and a margin of 4 % on each side
    pixels = np.asarray(photo)[10:30, 20:50]
    top = (33 - 20) // 2
    found = [cut[y : y + 20, x : x + 30] for y in (top, top + 1) for x in (1, 2)]
    assert any(np.array_equal(part, pixels) for part in found)
    assert (cut[0] == 255).all() and (cut[-1] == 255).all()
    with pytest.raises(BadInput, match="empty"):
        cut_out(photo, np.zeros((60, 60), np.float32))
    with pytest.raises(BadInput, match="60x60 pixels, its mask 30x60"):
        cut_out(photo, np.ones((60, 30), np.float32))


@pytest.fixture
def objects(tmp_path: Path) -> Any:
    """A registered object encoder, real and tiny."""
    torch.manual_seed(0)
    KINDS["dinov2"]().save_pretrained(tmp_path / "dinov2")
    model = TokenModel("tiny-object", tmp_path / "dinov2")
    register_encoder(
        "tiny-object", lambda: ObjectTokens("tiny-object", model, licence="none"), subject="object"
    )
    yield "tiny-object"
    from idpersona.encoders import catalogue

    release_encoders("tiny-object")
    del catalogue._ENTRIES["tiny-object"]


def test_an_object_is_read_without_its_background(objects: str, tmp_path: Path) -> None:
    mask = np.zeros((80, 100), np.uint8)
    mask[20:60, 30:70] = 255
    pixels = np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8)
    other = np.where(mask[..., None] > 0, pixels, 7).astype(np.uint8)

    def read(photo: Any, **options: Any) -> Identity:
        return read_identity(photo, objects, subject="object", **options)

    one = read(pixels, mask=mask)
    feature = one.features[objects]
    assert one.kind == "object" and feature.tokens == 5 and feature.values.shape == (5, 16)
    assert "cut out by a given mask" in feature.preprocessing
    assert np.array_equal(read(other, mask=mask).features[objects].values, feature.values)
    assert not np.allclose(read(pixels).features[objects].values, feature.values, atol=1e-3)
    rgba = np.dstack([pixels, mask])
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    alpha = read(tmp_path / "alpha.png", mask="alpha").features[objects]
    assert np.allclose(alpha.values, feature.values, atol=1e-4) and "by alpha" in alpha.preprocessing
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert np.array_equal(read(pixels, mask=tmp_path / "mask.png").features[objects].values, feature.values)
    both = read([pixels, other], mask=[mask, mask], merge="concat").features[objects]
    assert both.values.shape == (10, 16) and both.tokens == 5
    assert str(tmp_path) not in feature.preprocessing


def test_one_mask_is_not_laid_over_several_photos(objects: str, tmp_path: Path) -> None:
    Image.new("L", (8, 8), 255).save(tmp_path / "mask.png")
    for mask in (str(tmp_path / "mask.png"), tmp_path / "mask.png"):
        with pytest.raises(BadInput, match="one mask for 2 photos"):
            read_identity([noise(64), noise(64, 1)], objects, subject="object", mask=mask)
    assert read_identity([noise(64), noise(64, 1)], objects, subject="object", mask="none")


def test_masks_that_cannot_be(objects: str) -> None:
    pixels = np.asarray(noise(64))
    for mask, told in (
        ("alpha", "no transparency"),
        (np.zeros((64, 64), np.uint8), "empty"),
        (np.ones((32, 64), np.float32), "64x64 pixels, its mask 64x32"),
        ([np.ones((64, 64))] * 2, "2 masks for 1 photos"),
        (np.full((64, 64), 3.0), "0 to 1"),
    ):
        with pytest.raises(BadInput, match=told):
            read_identity(pixels, objects, subject="object", mask=mask)
    with pytest.raises(NoFaceFound):
        read_identity(pixels, objects, subject="object", mask="face")
    with pytest.raises(BadInput, match="subject='object'"):
        read_identity("sample:astronaut", "dlib", mask="alpha")
    with pytest.raises(BadInput, match="one mask for 2 photos"):
        read_identity([pixels, pixels], objects, subject="object", mask=np.ones((64, 64), np.float32))


def test_an_aligned_encoder_reads_the_face_that_dlib_found(tmp_path: Path) -> None:
    """Beside another encoder it looks at the very same face; alone it asks its finder."""
    torch.manual_seed(0)
    KINDS["vit_mae"]().save_pretrained(tmp_path)
    made = AlignedFace("tiny-face", TokenModel("tiny", tmp_path), eyes_at(0.3, 0.47), licence="none")
    register_encoder("tiny-face", lambda: made)
    try:
        both = read_identity("sample:astronaut", ["dlib", "tiny-face"])
        alone = read_identity("sample:astronaut", "tiny-face")
        assert both.features["tiny-face"] == alone.features["tiny-face"]
        assert both.features["tiny-face"].tokens == 17
        both.save(tmp_path / "me.safetensors")
        assert Identity.load(tmp_path / "me.safetensors") == both
        mean = Identity.merge([both, both]).features["tiny-face"]
        assert np.allclose(mean.values, both.features["tiny-face"].values, atol=1e-6) and mean.tokens == 17
        assert similarity(both, both)["encoder"] == "dlib"
        with pytest.raises(BadInput, match="do not tell people apart"):
            similarity(alone, alone)
    finally:
        from idpersona.encoders import catalogue

        release_encoders("tiny-face")
        del catalogue._ENTRIES["tiny-face"]


def test_identities_without_tokens_stay_version_1(tmp_path: Path) -> None:
    """So that older readers go on reading them."""
    me = read_identity("sample:astronaut")
    data = me.save(tmp_path / "me.safetensors").read_bytes()
    assert b'"version":"1"' in data and b"tokens" not in data


def manifest() -> dict[str, list[int]]:
    path = SHARED / "specs" / "manifests" / "wplus_e4e_ffhq_encode.json"
    if not path.is_file():
        pytest.skip(f"development data is not at {path}")
    state = json.loads(path.read_text())["state_dict"]
    return {key.removeprefix("encoder."): shape for key, shape in state.items() if key.startswith("encoder.")}


def test_e4e_has_the_published_keys_and_shapes() -> None:
    wanted = manifest()
    with torch.device("meta"):
        own = E4EEncoder().state_dict()
    assert {key: list(value.shape) for key, value in own.items()} == wanted
    assert sum(value.numel() for value in own.values()) == 267_161_076


def test_e4e_loads_the_published_layout_and_adds_the_mean_code(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"rows": 9, "side": 64, "stages": ((16, 1), (16, 1), (32, 1), (32, 2))}
    network = E4EEncoder(**sizes).eval()
    mean = torch.randn(9, 32)
    state = {f"encoder.{key}": value for key, value in network.state_dict().items()}
    file = tmp_path / "e4e_ffhq_encode.pt"
    torch.save(
        {"state_dict": state | {"decoder.x": torch.ones(1)}, "latent_avg": mean, "opts": {"a": 1}}, file
    )
    model = E4EModel("e4e", file, network=E4EEncoder(**sizes), side=64)
    assert (model.tokens, model.dim) == (9, 32)
    codes = model([noise(64)])
    assert codes.shape == (1, 9, 32)
    pixels = torch.from_numpy(np.asarray(noise(64))).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        assert np.allclose(codes, (network(pixels) + mean).numpy(), atol=1e-5)
        rows = network(pixels)
        heads = network.styles
        coarse = network.body(network.input_layer(pixels))
        first = heads[0](coarse)
    # Rows 1 and 2 add what their heads read from the coarsest map to the first row's code.
    assert torch.allclose(rows[:, 0], first, atol=1e-5)
    assert torch.allclose(rows[:, 2], first + heads[2](coarse), atol=1e-4)
    torch.save({"state_dict": {"encoder.strange": mean}, "latent_avg": mean}, file)
    with pytest.raises(CheckpointError, match=r"input_layer.*strange"):
        _ = E4EModel("e4e", file, network=E4EEncoder(**sizes), side=64).tokens
    torch.save({"latent_avg": mean}, file)
    with pytest.raises(CheckpointError, match="no e4e encoder"):
        _ = E4EModel("e4e", file, network=E4EEncoder(**sizes), side=64).tokens
    with pytest.raises(MissingWeights, match=r"nothing\.pt"):
        E4EModel("e4e", tmp_path / "nothing.pt")


def test_the_ffhq_head_is_on_white() -> None:
    photo, points = face_photo()
    crop = np.asarray(ffhq_head().cut(photo, points, 128))
    assert (crop[2, 2] > 250).all() and crop[64, 64].max() < 255


def test_a_head_at_the_photos_border_is_not_dragged_out_over_the_white() -> None:
    grey = Image.new("RGB", (200, 200), (120, 120, 120))
    points = np.array([[80, 50], [120, 50], [100, 75], [85, 95], [115, 95]], np.float32)
    crop = np.asarray(ffhq_head().cut(grey, points, 128))
    assert (crop[0] > 250).all() and (crop[:, 0] > 250).all()
    assert (crop[70, 64] == 120).all()


def test_the_style_autoencoder_and_its_reader(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(0, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
        latent_channels=4,
    )
    vae.save_pretrained(tmp_path / "vae")
    encoder = StyleEncoder(channels=4, rows=6, dim=16, widths=(16, 16, 24))
    encoder.save_pretrained(tmp_path / "encoder")
    model = StyleModel("tiny", tmp_path / "encoder", tmp_path / "vae")
    codes = model([noise(128), noise(128, 1)])
    assert codes.shape == (2, 6, 16) and (model.tokens, model.dim, model.side) == (6, 16, 128)
    decoder = StyleDecoder(channels=4, rows=6, dim=16, width=16).eval()
    with torch.no_grad():
        drawn = decoder(torch.from_numpy(codes))
        assert drawn.shape == (2, 4, 16, 16)
        # A row changes the picture, and one sample's code does not touch another's.
        for row in range(6):
            changed = torch.from_numpy(codes.copy())
            changed[0, row] += 1
            again = decoder(changed)
            assert not torch.allclose(again[0], drawn[0], atol=1e-4)
            assert torch.allclose(again[1], drawn[1], atol=1e-5)
    with pytest.raises(MissingWeights, match="nowhere"):
        StyleModel("tiny", tmp_path / "nowhere", tmp_path / "vae")


def test_the_names_of_all_encoders() -> None:
    assert {"dlib", "antelopev2", "buffalo_l", "mini-vit", "clip-h", "mini-wplus", "e4e"} <= set(
        encoder_names("face")
    )
    assert {"mini-vit-object", "dinov2", "mae"} <= set(encoder_names("object"))
