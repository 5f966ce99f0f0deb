"""``idpersona generate`` from end to end on a tiny real base."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file

from idpersona.jobs.listener import Listener
from idpersona.jobs.request import Request, recorded_request
from idpersona.jobs.sources import FileSources
from idpersona.provenance import is_marked, read_settings


def pixels(path):
    return np.asarray(Image.open(path))


def test_writes_a_marked_picture_with_its_settings(draw, tmp_path, me):
    out = draw("--seed", 3, "--scale", 0.5, "--negative", "blurry", "-o", tmp_path / "a.png").done()
    assert "a.png" in out.out
    assert pixels(tmp_path / "a.png").shape == (64, 64, 3)
    assert is_marked(tmp_path / "a.png")
    settings = read_settings(tmp_path / "a.png")
    expected = {"prompt": "a smiling person", "negative": "blurry", "seed": 3, "steps": 2, "guidance": 5.0}
    expected |= {"width": 64, "height": 64, "device": "cpu", "dtype": "fp32"}
    assert {key: settings[key] for key in expected} == expected
    assert settings["adapters"][0]["scale"] == 0.5
    assert settings["identity"]["consent"] is False
    assert me.name in settings["identity"]["sources"][0]["path"]


def test_a_picture_holds_no_features(draw, tmp_path, me):
    from idpersona import Identity

    draw("--seed", 3, "-o", tmp_path / "a.png").done()
    text = json.dumps(read_settings(tmp_path / "a.png"))
    values = Identity.load(me).features["dlib"].values
    assert not any(f"{value:.4f}"[:6] in text for value in values[0] if abs(value) > 0.1)


def test_progress_is_plain_lines_without_a_terminal(draw, tmp_path):
    err = draw("--steps", 10, "-o", tmp_path / "a.png").done().err
    assert err.splitlines()[0].startswith("loaded ")
    lines = [line for line in err.splitlines() if line.startswith("drawing")]
    assert len(lines) == 6
    assert "10/10" in lines[-1]
    assert "\r" not in err


def test_a_picture_in_the_pose_of_a_photo_has_its_proportions(draw, tmp_path):
    from idpersona.images import open_photo

    open_photo("sample:astronaut").crop((0, 0, 512, 400)).save(tmp_path / "wide.png")
    pose = ("--pose", tmp_path / "wide.png", "--steps", 1)
    draw(*pose, "-o", tmp_path / "a.png").done()
    assert pixels(tmp_path / "a.png").shape == (48, 64, 3)
    assert read_settings(tmp_path / "a.png")["height"] == 48
    draw(*pose, "--size", "64x64", "-o", tmp_path / "b.png").done()
    assert pixels(tmp_path / "b.png").shape == (64, 64, 3)


def test_from_repeats_exactly_elsewhere(draw, run, tmp_path):
    draw("--seed", 5, "--pose", "sample:astronaut", "-o", tmp_path / "a.png").done()
    (tmp_path / "other").mkdir()
    out = run("generate", "--from", tmp_path / "a.png", "-o", tmp_path / "other" / "b.png").done()
    assert "note" not in out.err
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "other" / "b.png"))
    first, second = read_settings(tmp_path / "a.png"), read_settings(tmp_path / "other" / "b.png")
    for settings in (first, second):
        for source in (*settings["identity"]["sources"], settings["pose"]):
            del source["path"], source["typed"]
        settings.pop("folders")
    assert first == second


def test_from_finds_folders_from_another_place_and_says_when_they_changed(
    run, tiny, me, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("base", "adapter"):
        shutil.copytree(tiny / name, tmp_path / name)
    words = ("--base", "base", "--adapter", "./adapter", "--identity", me, "--prompt", "x", "--steps", 1)
    run("generate", *words, "--device", "cpu", "-o", "made/a.png").refused("made")
    (tmp_path / "made").mkdir()
    run("generate", *words, "--device", "cpu", "-o", "made/a.png").done()
    monkeypatch.chdir(tmp_path / "made")
    again = run("generate", "--from", "a.png", "-o", "b.png").done()
    assert "note" not in again.err
    assert np.array_equal(pixels("a.png"), pixels("b.png"))
    weights = next((tmp_path / "base" / "unet").glob("*.safetensors"))
    tensors = load_file(weights)
    save_file({name: value + 0.01 for name, value in tensors.items()}, weights)
    changed = run("generate", "--from", "a.png", "-o", "c.png").done()
    assert "not as when the picture was made: " in changed.err
    assert "base" in changed.err.split("made: ")[1]
    assert not np.array_equal(pixels("a.png"), pixels("c.png"))


def test_a_folder_that_has_gone_is_not_looked_for_on_the_hub(run, tiny, me, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny / "base", tmp_path / "models" / "base")
    words = ("--base", "models/base", "--adapter", tiny / "adapter", "--identity", me, "--prompt", "x")
    run("generate", *words, "--steps", 1, "--device", "cpu", "-o", "a.png").done()
    other = shutil.copytree("models/base", tmp_path / "elsewhere")
    shutil.rmtree("models")
    run("generate", "--from", "a.png", "-o", "b.png").refused("folder 'models/base'", "--base")
    run("generate", "--from", "a.png", "--base", other, "-o", "b.png").done()


def test_the_folder_with_the_recorded_content_is_preferred(run, tiny, me, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny / "base", tmp_path / "base")
    words = ("--base", "base", "--adapter", tiny / "adapter", "--identity", me, "--prompt", "x", "--steps", 1)
    run("generate", *words, "--device", "cpu", "-o", "a.png").done()
    (tmp_path / "moved").mkdir()
    shutil.move("a.png", "moved/a.png")
    shutil.copytree("base", "moved/base")
    scheduler = tmp_path / "moved" / "base" / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text() + " ")
    assert "note" not in run("generate", "--from", "moved/a.png", "-o", "b.png").done().err
    shutil.rmtree("base")
    assert "not as when" in run("generate", "--from", "moved/a.png", "-o", "c.png").done().err


def test_pictures_of_other_makers_are_not_repeated(run, tmp_path):
    from idpersona.provenance import write_png

    write_png(Image.new("RGB", (8, 8)), tmp_path / "sheet.png", {"prompt": "x", "seed": 1})
    run("generate", "--from", tmp_path / "sheet.png", "-o", tmp_path / "b.png").refused(
        "not made by generate"
    )


def test_a_recorded_picture_does_not_switch_the_checker_off(draw, run, drawn, tmp_path):
    settings = read_settings(drawn)
    assert settings["safety_checker"] is None  # the tiny base has none
    info = PngInfo()
    info.add_itxt("parameters", json.dumps(settings | {"safety_checker": False}))
    Image.new("RGB", (8, 8)).save(drawn.parent / "unsafe.png", pnginfo=info)
    unsafe = drawn.parent / "unsafe.png"
    assert (
        recorded_request(read_settings(unsafe), FileSources(unsafe), Request(), Listener()).safety_checker
        is None
    )


def test_from_repeats_each_of_several(draw, run, tmp_path):
    draw("--seed", 2**63 - 1, "-n", 3, "-o", tmp_path / "a.png").done()
    files = [tmp_path / f"a-{i}.png" for i in range(3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in files]
    assert [read_settings(path)["seed"] for path in files] == [2**63 - 1, 0, 1]
    assert not np.array_equal(pixels(files[0]), pixels(files[1]))
    run("generate", "--from", files[2], "-o", tmp_path / "again.png").done()
    assert np.array_equal(pixels(files[2]), pixels(tmp_path / "again.png"))


def test_from_repeats_photos_and_takes_changes(draw, run, tmp_path):
    photo = tmp_path / "in" / "photo.png"
    photo.parent.mkdir()
    from idpersona.images import open_photo

    open_photo("sample:astronaut").save(photo)
    draw("--photo", photo, "--seed", 1, "-o", tmp_path / "a.png", identity=False).done()
    assert read_settings(tmp_path / "a.png")["identity"]["sources"][0]["path"] == "in/photo.png"
    shutil.move(photo, tmp_path / "photo.png")  # beside the picture it is found as well
    run("generate", "--from", tmp_path / "a.png", "-o", tmp_path / "b.png").done()
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))
    run("generate", "--from", tmp_path / "a.png", "--seed", 2, "-o", tmp_path / "c.png").done()
    assert not np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "c.png"))
    assert read_settings(tmp_path / "c.png")["seed"] == 2


def test_from_refuses_a_changed_or_missing_source(draw, run, tmp_path, me):
    mine = tmp_path / "mine.safetensors"
    shutil.copy(me, mine)
    draw("--identity", mine, "-o", tmp_path / "a.png", identity=False).done()
    from idpersona import Identity

    Identity.load(mine).with_consent().save(mine, force=True)
    run("generate", "--from", tmp_path / "a.png", "-o", tmp_path / "b.png").refused("has changed")
    mine.unlink()
    run("generate", "--from", tmp_path / "a.png", "-o", tmp_path / "b.png").refused("is not here")
    run("generate", "--from", tmp_path / "a.png", "--identity", me, "-o", tmp_path / "b.png").done()
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))


def test_identity_and_scale_change_the_picture(draw, tmp_path):
    for scale in (0, 0.5, 1):
        draw("--seed", 1, "--scale", scale, "-o", tmp_path / f"{scale}.png").done()
    drawn = [pixels(tmp_path / f"{scale}.png").astype(int) for scale in (0, 0.5, 1)]
    assert np.abs(drawn[0] - drawn[1]).mean() > 0
    assert np.abs(drawn[0] - drawn[2]).mean() > 0


def test_own_scale_of_an_adapter_wins(draw, run, tiny, me, tmp_path):
    fixed = ["--base", tiny / "base", "--identity", me, "--prompt", "x", "--steps", 1, "--device", "cpu"]
    run(
        "generate", *fixed, "--adapter", f"{tiny / 'adapter'}:0.25", "--scale", 1, "-o", tmp_path / "a.png"
    ).done()
    assert read_settings(tmp_path / "a.png")["adapters"][0]["scale"] == 0.25


def test_a_new_scale_wins_over_the_recorded_one(draw, run, tmp_path):
    draw("--seed", 1, "--scale", 0.25, "-o", tmp_path / "a.png").done()
    draw("--seed", 1, "--scale", 0.75, "-o", tmp_path / "b.png").done()
    words = ("--from", tmp_path / "a.png", "--scale", 0.75, "-o", tmp_path / "c.png")
    run("generate", *words).done()
    assert read_settings(tmp_path / "c.png")["adapters"][0]["scale"] == 0.75
    assert np.array_equal(pixels(tmp_path / "b.png"), pixels(tmp_path / "c.png"))


def test_options_of_an_adapter_act_are_recorded_and_repeat(draw, run, tiny, tmp_path):
    draw("--seed", 1, "-o", tmp_path / "a.png").done()
    draw("--seed", 1, "--set", "net_end=0.5", "guess_mode=true", "-o", tmp_path / "b.png").done()
    assert not np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))
    recorded = read_settings(tmp_path / "b.png")["adapters"][0]
    assert recorded["options"] == {"net_end": 0.5, "guess_mode": True}
    run("generate", "--from", tmp_path / "b.png", "-o", tmp_path / "c.png").done()
    assert np.array_equal(pixels(tmp_path / "b.png"), pixels(tmp_path / "c.png"))
    again = ["generate", "--from", tmp_path / "b.png", "--set"]
    named = f"{tiny / 'adapter'}.net_end=1"
    run(*again, named, "guess_mode=false", "-o", tmp_path / "d.png").done()
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "d.png"))


def test_recorded_options_stay_beside_new_ones(draw, run, tiny, tmp_path):
    draw("--set", "net_end=0.5", "guess_mode=true", "-o", tmp_path / "a.png").done()
    again = ["generate", "--from", tmp_path / "a.png", "-o", tmp_path / "b.png", "--force"]
    for words in (["--set", "net_start=0"], ["--scale", 0.5, "--set", "net_start=0"]):
        run(*again, *words).done()
        options = read_settings(tmp_path / "b.png")["adapters"][0]["options"]
        assert options == {"net_end": 0.5, "guess_mode": True, "net_start": 0.0}
    run(*again, "--adapter", f"{tiny / 'adapter'}:0.5").done()
    assert read_settings(tmp_path / "b.png")["adapters"][0]["scale"] == 0.5
    assert read_settings(tmp_path / "b.png")["adapters"][0]["options"]["net_end"] == 0.5


def test_from_keeps_consent_and_the_path_as_typed(draw, run, tmp_path, monkeypatch):
    from idpersona.images import open_photo

    monkeypatch.chdir(tmp_path)
    open_photo("sample:astronaut").save("me.png")
    draw("--photo", "me.png", "--consent", "-o", "a.png", identity=False).done()
    run("generate", "--from", "a.png", "--require-consent", "-o", "b.png").done()
    first, second = (read_settings(tmp_path / name)["identity"] for name in ("a.png", "b.png"))
    assert first == second and second["consent"] is True and second["sources"][0]["typed"] == "me.png"
    open_photo("sample:astronaut").convert("L").save("other.png")
    changed = ["generate", "--from", "a.png", "--photo", "other.png", "-o", "c.png"]
    run(*changed, "--require-consent").refused("consent")


def test_an_option_that_the_adapter_does_not_know_writes_nothing(draw, tmp_path):
    for option, says in (
        ("net_stop=1", "net_start, net_end, guess_mode"),
        ("net_end=2", "net_start and net_end"),
        ("start=true", "a number"),
        ("net_end=true", "a number"),
        ("guess_mode=0.5", "true or false"),
    ):
        draw("--set", option, "-o", tmp_path / "a.png").refused(says)
    assert list(tmp_path.iterdir()) == []


def test_what_is_cut_from_a_long_prompt_is_said(draw, tmp_path):
    words = "a person " + "in a very long coat " * 5 + "beside the sea"
    err = draw("--prompt", words, "-o", tmp_path / "a.png", prompt=False).done().err
    cut = next(line for line in err.splitlines() if line.startswith("note: --prompt"))
    assert "the base takes 75" in cut
    assert cut.endswith("beside the sea' (--weighted takes prompts of any length)")
    assert read_settings(tmp_path / "a.png")["prompt"] == words


def test_size(draw, tmp_path):
    draw("--size", "72x96", "-o", tmp_path / "a.png").done()
    assert Image.open(tmp_path / "a.png").size == (72, 96)


def test_json(draw, tmp_path):
    data = json.loads(draw("--seed", 4, "-n", 2, "--json", "-o", tmp_path / "a.png").done().out)
    assert [entry["seed"] for entry in data] == [4, 5]
    assert data[0]["file"].endswith("a-0.png")


def test_a_random_seed_is_recorded_and_differs(draw, tmp_path):
    for name in ("a", "b"):
        draw("-o", tmp_path / f"{name}.png").done()
    assert read_settings(tmp_path / "a.png")["seed"] != read_settings(tmp_path / "b.png")["seed"]


def test_lora_changes_the_picture_and_repeats(draw, run, tiny, tmp_path):
    pytest.importorskip("peft")
    import torch
    from safetensors.torch import save_file

    module = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q"
    torch.manual_seed(0)
    weights = {f"{module}.lora_A.weight": torch.randn(2, 64), f"{module}.lora_B.weight": torch.randn(64, 2)}
    save_file(weights, tmp_path / "style.safetensors")
    draw("--seed", 1, "-o", tmp_path / "plain.png").done()
    draw("--seed", 1, "--lora", f"{tmp_path / 'style.safetensors'}:1.5", "-o", tmp_path / "lora.png").done()
    assert not np.array_equal(pixels(tmp_path / "plain.png"), pixels(tmp_path / "lora.png"))
    assert read_settings(tmp_path / "lora.png")["lora"][0]["weight"] == 1.5
    run("generate", "--from", tmp_path / "lora.png", "-o", tmp_path / "again.png").done()
    assert np.array_equal(pixels(tmp_path / "lora.png"), pixels(tmp_path / "again.png"))
    save_file({"nothing.known": torch.zeros(2, 2)}, tmp_path / "bad.safetensors")
    words = ("--lora", tmp_path / "bad.safetensors", "-o", tmp_path / "bad.png")
    refused = draw(*words)
    assert refused.status == 2 and "bad.safetensors" in refused.err.splitlines()[-1]
    assert not (tmp_path / "bad.png").exists()
    elsewhere = {name.replace("to_q", "to_nowhere"): value.clone() for name, value in weights.items()}
    save_file(weights | elsewhere, tmp_path / "half.safetensors")
    half = draw("--lora", tmp_path / "half.safetensors", "-o", tmp_path / "half.png").done()
    assert "note: LoRA" in half.err and "to_nowhere" in half.err


def test_weighted_prompts_are_drawn_and_repeated(draw, tmp_path):
    text = "a photo of a (smiling)1.4 man. " + "he has a beard and wears eyeglasses. " * 12
    first = ("--seed", 3, "--steps", 1, "--prompt", text)
    plain = draw(*first, "-o", tmp_path / "plain.png")
    assert "cut off" in plain.err and "--weighted takes prompts of any length" in plain.err
    whole = draw(*first, "--weighted", "-o", tmp_path / "a.png")
    assert "cut off" not in whole.err
    assert read_settings(tmp_path / "a.png")["weighted"] is True
    draw("--from", tmp_path / "a.png", "--steps", 1, "-o", tmp_path / "b.png", prompt=False).done()
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))
    assert not np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "plain.png"))
    draw("--from", tmp_path / "a.png", "--plain", "--steps", 1, "-o", tmp_path / "c.png", prompt=False).done()
    assert np.array_equal(pixels(tmp_path / "plain.png"), pixels(tmp_path / "c.png"))


def test_variations_are_near_the_picture_and_can_be_repeated(draw, run, tmp_path):
    draw("--seed", 3, "-o", tmp_path / "a.png").done()
    draw("--seed", 3, "--vary", "5:0", "-o", tmp_path / "same.png").done()
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "same.png"))
    draw("--seed", 3, "--vary", "5:0.2", "-n", 2, "-o", tmp_path / "v.png").done()
    near, other = tmp_path / "v-0.png", tmp_path / "v-1.png"
    assert [read_settings(path)["seed"] for path in (near, other)] == [3, 3]
    assert [read_settings(path)["vary"] for path in (near, other)] == [
        [{"seed": 5, "amount": 0.2}],
        [{"seed": 6, "amount": 0.2}],
    ]
    assert not np.array_equal(pixels(near), pixels(other))
    draw("--seed", 5, "-o", tmp_path / "b.png").done()
    distance = [np.abs(pixels(near).astype(float) - pixels(tmp_path / f"{n}.png")).mean() for n in "ab"]
    assert 0 < distance[0] < distance[1]
    draw("--seed", 3, "--vary", "5:1", "-o", tmp_path / "c.png").done()
    assert np.abs(pixels(tmp_path / "b.png").astype(int) - pixels(tmp_path / "c.png")).max() <= 1
    run("generate", "--from", other, "-o", tmp_path / "again.png").done()
    assert np.array_equal(pixels(other), pixels(tmp_path / "again.png"))


def test_a_variation_of_a_variation_is_near_that_one(draw, run, tmp_path):
    draw("--seed", 3, "--vary", "5:0.6", "-o", tmp_path / "varied.png").done()
    draw("--seed", 3, "--vary", "5:0.6", "--vary", "9:0.1", "-o", tmp_path / "further.png").done()
    draw("--seed", 3, "-o", tmp_path / "first.png").done()
    further = pixels(tmp_path / "further.png").astype(float)
    near, far = (np.abs(further - pixels(tmp_path / f"{name}.png")).mean() for name in ("varied", "first"))
    assert 0 < near < far
    run("generate", "--from", tmp_path / "further.png", "-o", tmp_path / "again.png").done()
    assert np.array_equal(further, pixels(tmp_path / "again.png"))


@pytest.mark.parametrize(
    "words", [("--vary", "5"), ("--vary", "x:0.1"), ("--vary", "5:1.5"), ("--vary", "-1:0.5")]
)
def test_a_variation_of_another_form_is_refused(draw, tmp_path, words):
    draw("--seed", 3, *words, "-o", tmp_path / "a.png").refused("--vary")


def test_a_variation_needs_the_seed_of_what_it_varies(draw, tmp_path):
    draw("--vary", "5:0.5", "-o", tmp_path / "a.png").refused("--seed")
