"""PIE-Bench on a folder of three edits drawn here: its definitions, whole runs, damaged folders."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from PIL import Image

from idpersona.cli.main import main
from idpersona.errors import BadInput, PhotoError
from idpersona.eval.edit_measures import COLUMNS, EditMeasures, through_jpeg
from idpersona.eval.masks import SIDE, decode_runs, times
from idpersona.eval.pie_bench import Editor, evaluate_pie_bench
from idpersona.eval.pie_folder import read_edits
from idpersona.eval.weights import modules_sha256
from idpersona.pipelines.editing.spec import Control
from idpersona.provenance import is_marked
from idpersona.testing import tiny_components
from idpersona.testing.checker import tiny_safety_checker
from idpersona.testing.measuring import write_measures

NAMES = ("000000000000", "111000000001", "921000000002")
BOX = [number for row in range(100, 300) for number in (row * SIDE + 200, 150)]
"""Runs of the box of 150x200 pixels at (200, 100)."""


def entries() -> dict[str, dict[str, Any]]:
    """Brackets, words with punctuation, a word that is not there, a mask of everything and one of a box."""
    return {
        NAMES[0]: {
            "image_path": "0_random_140/000000000000.jpg",
            "original_prompt": "a woman in front of a [flag], smiling",
            "editing_prompt": "a woman in front of a [rocket], smiling",
            "editing_instruction": "Change the flag to a rocket",
            "editing_type_id": "0",
            "blended_word": "flag, rocket,",
            "mask": BOX,
        },
        NAMES[1]: {
            "image_path": "1_change_object_80/1_artificial/1_animal/111000000001.jpg",
            "original_prompt": "a cup of coffee",
            "editing_prompt": "a cup of [tea]",
            "editing_instruction": "",
            "editing_type_id": "1",
            "blended_word": "mug tea",
            "mask": [0, SIDE * SIDE],
        },
        NAMES[2]: {
            "image_path": "9_change_style_80/2_natural/921000000002.jpg",
            "original_prompt": "a cat",
            "editing_prompt": "[a watercolor of] a cat",
            "editing_instruction": "",
            "editing_type_id": "9",
            "blended_word": "",
            "mask": [],
        },
    }


def write_folder(folder: Path, items: dict[str, Any]) -> Path:
    from skimage import data

    for entry, draw in zip(entries().values(), (data.astronaut, data.coffee, data.chelsea), strict=True):
        path = folder / "annotation_images" / entry["image_path"]
        path.parent.mkdir(parents=True)
        Image.fromarray(draw()).resize((SIDE, SIDE)).save(path)
    (folder / "mapping_file.json").write_text(json.dumps(items))
    return folder


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("pie"), entries())


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_measures(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def measures(weights: Path, monkeypatch: pytest.MonkeyPatch) -> EditMeasures:
    monkeypatch.setenv("IDPERSONA_WEIGHTS", str(weights))
    found = EditMeasures.load()
    assert found.names == tuple(COLUMNS) and not found.missing
    return found


def test_masks_are_runs_with_a_border() -> None:
    mask = decode_runs([7, 2, 13, 100], (4, 6))
    assert mask[1, 1:3].all() and not mask[1, 3:5].any() and mask[2].tolist() == [True] * 6
    assert mask[0].all() and mask[-1].all() and mask[:, 0].all() and mask[:, -1].all()
    box = decode_runs(BOX)
    assert box.shape == (SIDE, SIDE) and box[1:-1, 1:-1].sum() == 150 * 200 and box[100:300, 200:350].all()
    for runs in ([1], [-1, 2], [0, 1.5], [True, 1]):
        with pytest.raises(BadInput, match="pairs"):
            decode_runs(runs)
    with pytest.raises(BadInput, match="does not fit"):
        times(Image.new("RGB", (4, 6)), mask)


def test_an_edit_is_measured_as_the_benchmark_does(measures: EditMeasures, benchmark: Path) -> None:
    edits = read_edits(benchmark)
    a, b = (Image.open(item.photo).convert("RGB") for item in edits[:2])
    b = Image.blend(a, b, 0.1)
    mask = edits[0].mask
    found = measures(a, b, mask, "a cat")
    x, y = (np.asarray(picture, dtype=np.float64) / 255 for picture in (a, b))
    error = (((x - y) * (1 - mask[..., None])) ** 2).mean()  # zeros count
    assert found["mse"] == pytest.approx(error, rel=1e-9)
    assert found["psnr"] == pytest.approx(-10 * math.log10(error), rel=1e-9)
    assert measures.lpips is not None and measures.structure is not None and measures.clip is not None
    kept = [Image.fromarray((np.asarray(p) * (1 - mask[..., None])).astype(np.uint8)) for p in (a, b)]
    assert found["lpips"] == measures.lpips(*kept) > 0
    assert found["structure"] == measures.structure(a, b) > 0
    edited = Image.fromarray(np.asarray(b) * mask[..., None].astype(np.uint8))
    assert [found["clip"], found["clip_edited"]] == measures.clip([b, edited], "a cat")
    assert 0 < found["ssim"] < 1
    # Nothing but black is left where all is edited.
    covered = measures(a, b, np.ones_like(mask), "a cat")
    none = {name for name, value in covered.items() if math.isnan(value)}
    assert none == {"psnr", "lpips", "mse", "ssim"}
    same = measures(a, a, mask, "a cat")
    assert (same["mse"], same["lpips"], same["structure"], same["psnr"]) == (0, 0, 0, 99)
    assert same["ssim"] == pytest.approx(1)


def test_edits_are_measured_as_jpeg_files() -> None:
    from skimage.data import astronaut

    picture, file = Image.fromarray(astronaut()), io.BytesIO()
    picture.save(file, format="JPEG", quality=75)
    assert np.array_equal(through_jpeg(picture), Image.open(file))


@pytest.fixture(scope="module")
def base(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("base")
    pipe.save_pretrained(folder)
    return str(folder)


def test_a_whole_run_and_again(
    base: str,
    benchmark: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("IDPERSONA_WEIGHTS", str(weights))
    words = ["eval", "pie-bench", str(benchmark), "--base", base, "--steps", "2", "--device", "cpu"]
    words += ["-o", str(tmp_path / "out")]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["edits"] for row in result["rows"]] == [
        "all",
        "0 random",
        "1 change object",
        "9 change style",
    ]
    everything, _, covered, _ = result["rows"]
    assert everything["number"] == 3 and everything["structure"]["n"] == 3 and everything["psnr"]["n"] == 2
    assert covered["psnr"] is None and covered["clip"] is not None
    people = {person["edit"]: person for person in result["people"]}
    assert set(people) == set(NAMES) and people[NAMES[1]]["ssim"] is None
    mean = (people[NAMES[0]]["mse"] + people[NAMES[2]]["mse"]) / 2
    assert everything["mse"]["mean"] == pytest.approx(mean)
    assert result["failures"] == [f"{NAMES[1]}: edited without blend, 'mug' is not in 'a cup of coffee'"]
    assert result["settings"]["measured_as"] == "JPEG" and result["settings"]["method"] == "direct"
    assert {"base", "structure", "lpips", "clip"} <= set(result["weights"])
    text = (tmp_path / "out" / "pie-bench.md").read_text()
    assert "PSNR, dB" in text.splitlines()[0] and "| – " in text
    assert "mask covers the whole photo: 1;" in text and "drawn at 64x64 and scaled to 512x512" in text
    pictures = sorted((tmp_path / "out" / "pictures").iterdir())
    assert len(pictures) == 3 and all(is_marked(picture) for picture in pictures)
    assert is_marked(tmp_path / "out" / "pie-bench.png")
    # Again: refused, then measured anew from the same pictures.
    before = {picture.name: picture.stat().st_mtime_ns for picture in pictures}
    assert main(words) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*words, "--force", "--json", "--lossless"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "pictures").iterdir()} == before
    assert (
        again["people"][0]["mse"] != people[NAMES[0]]["mse"] and again["settings"]["measured_as"] == "drawn"
    )


def test_an_interrupted_run_goes_on(pipe: Any, benchmark: Path, tmp_path: Path) -> None:
    edits = read_edits(benchmark)

    def editor(**settings: Any) -> Editor:
        return Editor(pipe, tmp_path, **{"steps": 2, "method": "ddim", **settings})

    first = editor()
    picture = first(edits[0])
    assert first.drawn == 1 and picture.size == (64, 64)
    second = editor()
    assert np.array_equal(second(edits[0]), picture) and second.drawn == 0
    report = evaluate_pie_bench(second, edits, measures=EditMeasures(), quiet=True)
    assert second.drawn == 2 and len(report.people) == 3
    assert [path.name for path in tmp_path.glob(".*")] == []
    # What determines a picture is in its name.
    other = editor(guidance=2.0)
    other(edits[0])
    changed = (dataclasses.replace(edits[0], **{key: "a woman"}) for key in ("source", "target"))
    for item in changed:
        other(dataclasses.replace(item, blend=None))
    assert other.drawn == 3 and len(list(tmp_path.glob(f"{NAMES[0]}-*.png"))) == 4
    with pytest.raises(BadInput, match="did you mean direct"):
        editor(method="dirct")


def test_blocked_edits_are_left_out(benchmark: Path, tmp_path: Path) -> None:
    pipe: Any = StableDiffusionPipeline(**tiny_components("sd15") | tiny_safety_checker())
    pipe.set_progress_bar_config(disable=True)
    editor = Editor(pipe, tmp_path, method="ddim", steps=2)
    report = evaluate_pie_bench(editor, read_edits(benchmark)[:1], measures=EditMeasures(), quiet=True)
    assert report.people == [] and "safety checker" in report.failures[-1]
    assert report.rows[0]["number"] == 0 and report.rows[0]["psnr"] is None
    json.dumps(report.as_dict(), allow_nan=False)


def test_the_blend_is_the_annotated_one(pipe: Any, benchmark: Path, tmp_path: Path) -> None:
    editor = Editor(pipe, tmp_path)
    assert editor.settings == {"method": "direct", "steps": 50, "guidance": 7.5}
    plain = Control(kind="refine", cross=0.4, self_attention=0.6)
    (blended, lost), (without, why), (none, _) = map(editor.control, read_edits(benchmark))
    assert blended == Control(
        kind="refine", cross=0.4, self_attention=0.6, blend=("flag", "rocket"), reweight={"rocket": 2.0}
    )
    assert lost is None and without == plain == none and why is not None
    modules = {n: m for n, m in pipe.components.items() if hasattr(m, "state_dict")}
    assert editor.base_sha256 == modules_sha256(modules)


def test_missing_weights_are_left_out_and_said(
    pipe: Any, benchmark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDPERSONA_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    measures = EditMeasures.load()
    assert measures.names == ("psnr", "mse", "ssim") and measures.weights == {}
    editor = Editor(pipe, tmp_path / "pictures", method="ddim", steps=2)
    report = evaluate_pie_bench(editor, read_edits(benchmark, limit=1), measures=measures, quiet=True)
    text = report.text()
    assert "LPIPS ×" not in text and "CLIP, whole" not in text
    for cure in ("models pull dino-vitb8", "models pull clip-vit-l14", "fetch squeezenet1_1-b8a52dc0.pth"):
        assert cure in text


def test_types_and_limit(benchmark: Path) -> None:
    def names(**wanted: Any) -> list[str]:
        return [item.name for item in read_edits(benchmark, **wanted)]

    assert names() == list(NAMES)
    assert names(types=["9", "0"]) == [NAMES[0], NAMES[2]] and names(limit=2) == list(NAMES[:2])
    first, *_ = read_edits(benchmark)
    assert first.source == "a woman in front of a flag, smiling" and first.blend == ("flag", "rocket")
    for wanted, says in (
        ({"types": ["ten"]}, "no type of edit 'ten'"),
        ({"types": ["5"]}, "holds no edit of type 5"),
        ({"limit": 0}, "at least 1"),
    ):
        with pytest.raises(BadInput, match=says):
            read_edits(benchmark, **wanted)


def test_a_limit_is_spread_over_the_types(tmp_path: Path) -> None:
    one, two, three = entries().values()
    items = {"a": one, "b": one, "c": one, "d": two, "e": three, "f": three}
    folder = write_folder(tmp_path, items)
    assert [item.name for item in read_edits(folder, limit=4)] == ["a", "b", "d", "e"]


DAMAGE: list[tuple[dict[str, Any] | None, str]] = [
    (None, f"the edit '{NAMES[0]}' is damaged: it is no object"),
    ({"original_prompt": 3}, "original_prompt is no text"),
    ({"blended_word": "flag"}, "blended_word names no word of each prompt"),
    ({"blended_word": None}, "blended_word is no text"),
    ({"editing_type_id": "10"}, "editing_type_id is '10'"),
    ({"image_path": "../secret.jpg"}, "leads out of annotation_images"),
    ({"image_path": "/etc/passwd"}, "leads out of annotation_images"),
    ({"image_path": ""}, "leads out of annotation_images"),
    ({"image_path": "absent.jpg"}, "no such photo"),
    ({"mask": "0 5"}, "mask is no list"),
    ({"mask": [0, 1, 2]}, "pairs"),
    ({"mask": [0, "1"]}, "pairs"),
]


@pytest.mark.parametrize(("change", "says"), DAMAGE, ids=[says[:30] for _, says in DAMAGE])
def test_damaged_items_are_one_line(
    change: dict[str, Any] | None, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items: dict[str, Any] = entries()
    items[NAMES[0]] = None if change is None else {**items[NAMES[0]], **change}
    folder = write_folder(tmp_path / "pie", items)
    assert main(["eval", "pie-bench", str(folder), "-o", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("idpersona: ") and says in lines[0], lines
    assert not (tmp_path / "out").exists()


def test_other_folders_are_one_line(
    benchmark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mapping_file.json").write_text("[]")
    for words, says in (
        ([str(tmp_path / "none")], "is no folder of PIE-Bench: it holds no mapping_file.json"),
        ([str(tmp_path)], "it holds no annotation_images; get it from https"),
        ([str(benchmark), "--method", "nul-text"], "did you mean null-text"),
        ([str(benchmark), "--types", "1;2"], "no type of edit '1;2'"),
        ([str(benchmark), "--base", "mimi"], "did you mean mini"),
        ([str(benchmark), "--base", "mini", "--dtype", "fp61"], "dtype"),
        ([str(benchmark), "--guidance", "inf"], "guidance must be a number"),
        ([str(benchmark), "--limit", "0"], "limit"),
    ):
        assert main(["eval", "pie-bench", *words, "-o", str(tmp_path / "out")]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and says in lines[0], lines
    (tmp_path / "annotation_images").mkdir()
    with pytest.raises(BadInput, match="holds no JSON object"):
        read_edits(tmp_path)
    folder = write_folder(tmp_path / "pie", entries())
    (folder / "annotation_images" / entries()[NAMES[2]]["image_path"]).write_bytes(b"\xff\xd8 no photo")
    with pytest.raises(PhotoError, match=NAMES[2]):
        read_edits(folder)
