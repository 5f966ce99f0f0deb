"""The interface: an outside OpenAI client, whose picture it is, and what is refused."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image

from idpersona.app.sessions import LOCK
from idpersona.hashing import file_sha256
from idpersona.provenance import is_marked, read_settings

openai = pytest.importorskip("openai")
PROMPT = "a photo of a smiling woman"


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)


def encoded(path):
    return base64.b64encode(path.read_bytes()).decode()


def test_an_openai_client_generates(client, server, photo, tmp_path):
    made = client.images.generate(
        model="mini",
        prompt=PROMPT,
        n=2,
        extra_body={
            "seed": 3,
            "steps": 2,
            "identity": {"photos": [encoded(photo)], "consent": True, "scale": 0.7},
        },
    )
    assert len(made.data) == 2
    for number, one in enumerate(made.data):
        path = tmp_path / f"{number}.png"
        path.write_bytes(base64.b64decode(one.b64_json))
        assert is_marked(path)
        settings = read_settings(path)
        assert settings["seed"] == 3 + number
        assert settings["adapters"] == [{"name": "instantid", "scale": 0.7, "options": {}}]
        assert one.model_extra["settings"]["seed"] == 3 + number
        who = one.model_extra["identity"]
        assert who["photos_sha256"] == [file_sha256(photo)]
        assert who["consent"] is True
        # Nothing of this machine is told.
        assert settings["identity"]["sources"][0]["path"] == "identity.photos[0]"
        assert str(server.studio.sessions.root) not in json.dumps(settings)
    assert len(server.studio.sessions) == 0
    assert {path.name for path in server.studio.sessions.root.iterdir()} <= {"gradio", LOCK}


def test_the_same_request_gives_the_same_picture(client):
    words = {"prompt": PROMPT, "extra_body": {"seed": 5, "steps": 2, "identity": {"sample": "astronaut"}}}
    assert (
        client.images.generate(**words).data[0].b64_json == client.images.generate(**words).data[0].b64_json
    )


def test_several_people_and_an_identity_file(client, tmp_path, server):
    from idpersona.adapters import load_adapter

    me = load_adapter("instantid").read("sample:astronaut").save(tmp_path / "me.safetensors")
    made = client.images.generate(
        prompt=PROMPT,
        extra_body={
            "steps": 2,
            "identity": {
                "people": [
                    {"file": encoded(me), "region": [0, 0, 64, 128]},
                    {"sample": "person-1", "region": [64, 0, 64, 128]},
                ]
            },
        },
    )
    told = made.data[0].model_extra["settings"]["identity"]
    assert told["from"] == "persons"
    assert told["regions"] == ["0,0,64,128", "64,0,64,128"]


def test_an_openai_client_edits(client, photo):
    with photo.open("rb") as file:
        made = client.images.edit(
            model="mini",
            image=file,
            prompt="a photo of a woman with eyeglasses",
            extra_body={
                "steps": 2,
                "identity": {"source": "a photo of a woman", "strength": 0.5, "words": ["eyeglasses"]},
            },
        )
    told = made.data[0].model_extra["settings"]
    assert told["source"] == "a photo of a woman"
    assert told["control"]["strength"] == 0.5
    assert told["edited"]["path"] == "astronaut photo.jpg"
    with Image.open(io.BytesIO(base64.b64decode(made.data[0].b64_json))) as picture:
        assert picture.size == (128, 128)


def test_an_edit_takes_what_clients_send_by_themselves(client, photo):
    with photo.open("rb") as file:
        made = client.images.edit(
            image=file,
            prompt="a photo of a woman with eyeglasses",
            n=1,
            size="auto",
            response_format="b64_json",
            extra_body={"steps": 1, "stream": False, "identity": {"source": "a photo of a woman"}},
        )
    assert len(made.data) == 1


@pytest.mark.parametrize(
    "form",
    [
        {"n": "2"},
        {"n": "x"},
        {"stream": "true"},
        {"mask": "x"},
        {"identity[words]": "a", "identity[words][]": "b"},
        {"identity": '{"words": null}', "identity[words][]": "b"},
        {"identity": "[]"},
        {"identity[x][y][z]": "1"},
        {"identity[face]": "-1"},
    ],
)
def test_forms_that_make_no_sense_are_refused(post, photo, form):
    answer = post(
        "/v1/images/edits",
        data={"prompt": "a photo", **form},
        files={"image": ("a.jpg", photo.read_bytes())},
    )
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


def test_a_defect_is_told_as_one_in_the_usual_form(server, monkeypatch):
    import httpx

    from idpersona.app.catalogue import Catalogue

    def broken(*_):
        raise ZeroDivisionError("/secret/place")

    monkeypatch.setattr(Catalogue, "methods", broken)
    answer = httpx.get(f"{server.address}/v1/models")
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text


@pytest.mark.parametrize("field", [{"face": 7}, {"consent": True}])
def test_nothing_of_an_identity_is_left_out_silently(post, tmp_path, field):
    from idpersona.adapters import load_adapter

    me = load_adapter("instantid").read("sample:astronaut").save(tmp_path / "me.safetensors")
    answer = post(
        "/v1/images/generations",
        json={"prompt": PROMPT, "steps": 1, "identity": {"file": encoded(me), **field}},
    )
    assert answer.status_code == 400
    assert "identity file" in answer.json()["error"]["message"]


def test_the_fields_of_a_form_may_be_json(post, photo):
    form = {
        "prompt": "a photo of a smiling woman",
        "steps": "2",
        "identity": json.dumps({"source": "a photo of a woman", "keep_background": True}),
    }
    made = post("/v1/images/edits", data=form, files={"image": ("a.jpg", photo.read_bytes())})
    assert made.status_code == 200
    assert made.json()["data"][0]["settings"]["keep_background"] is True


def test_models_are_listed(client):
    models = list(client.models.list())
    assert models[0].id == "mini"
    assert "instantid" in models[0].model_extra["methods"]


def test_errors_reach_the_client_in_its_own_types(client):
    with pytest.raises(openai.BadRequestError, match="whose picture"):
        client.images.generate(prompt=PROMPT)
    with pytest.raises(openai.NotFoundError, match="unknown base 'gpt-image-1'"):
        client.images.generate(
            model="gpt-image-1", prompt=PROMPT, extra_body={"identity": {"sample": "astronaut"}}
        )


GOOD = {"prompt": PROMPT, "steps": 1, "identity": {"sample": "astronaut"}}
REFUSED = {
    "a path for a sample": ({**GOOD, "identity": {"sample": "../../etc/passwd"}}, 400, "etc/passwd"),
    "a path for an identity": ({**GOOD, "identity": {"file": "/etc/passwd"}}, 400, "not base64"),
    "a path for a model": ({**GOOD, "model": "../../etc"}, 404, "unknown base"),
    "a path for an adapter": (
        {**GOOD, "identity": {"sample": "astronaut", "adapter": "/etc"}},
        400,
        "unknown method",
    ),
    "no image": ({**GOOD, "identity": {"photos": ["aGVsbG8="]}}, 400, "not an image"),
    "no identity file": ({**GOOD, "identity": {"file": "aGVsbG8="}}, 400, "identity"),
    "nobody": ({**GOOD, "identity": {}}, 400, "give one of photos"),
    "two ways at once": (
        {**GOOD, "identity": {"sample": "astronaut", "photos": ["eA=="]}},
        400,
        "give one of",
    ),
    "an unknown field": ({**GOOD, "colour": "red"}, 400, "colour"),
    "a number out of range": ({**GOOD, "steps": 0}, 400, "steps"),
    "a number that is none": ({**GOOD, "guidance": "much"}, 400, "guidance"),
    "no finite number": (
        '{"prompt": "x", "guidance": NaN, "identity": {"sample": "astronaut"}}',
        400,
        "guidance",
    ),
    "a size of another form": ({**GOOD, "size": "big"}, 400, "size"),
    "an odd size": ({**GOOD, "size": "100x100"}, 400, "multiples of 8"),
    "addresses of pictures": ({**GOOD, "response_format": "url"}, 400, "response_format"),
    "a stream": ({**GOOD, "stream": True}, 400, "stream"),
    "an empty prompt": ({**GOOD, "prompt": ""}, 400, "prompt"),
    "white space for a prompt": ({**GOOD, "prompt": "  "}, 400, "prompt"),
    "control characters": ({**GOOD, "prompt": "a\x00b"}, 400, "control"),
    "too many pictures": ({**GOOD, "n": 100}, 400, "n:"),
    "a seed that is too large": ({**GOOD, "seed": 2**63}, 400, "seed"),
    "a list": ([1, 2], 400, "JSON object"),
    "malformed JSON": ('{"prompt": ', 400, "JSON"),
    "no JSON at all": (b"\xff\xfe\x00", 400, "JSON"),
    "deep JSON": ("[" * 100_000, 400, "JSON"),
    "a region outside": (
        {
            **GOOD,
            "identity": {
                "people": [
                    {"sample": "astronaut", "region": [0, 0, 64, 64]},
                    {"sample": "person-1", "region": [999, 0, 64, 64]},
                ]
            },
        },
        400,
        "",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_answered_with_its_reason(post, server, name):
    body, status, says = REFUSED[name]
    content = body if isinstance(body, (str, bytes)) else json.dumps(body)
    answer = post("/v1/images/generations", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert says in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in answer.text
    assert str(server.studio.sessions.root) not in answer.text
    assert len(server.studio.sessions) == 0


def test_a_bomb_is_refused(post, bomb):
    answer = post("/v1/images/generations", json={**GOOD, "identity": {"photos": [encoded(bomb)]}})
    assert answer.status_code == 400
    assert "more pixels than the 40,000,000" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("form", "files", "says"),
    [
        ({"prompt": "x"}, {}, "as 'image'"),
        ({"prompt": "x"}, {"image": ("a.png", b"nothing")}, "not an image"),
        ({"prompt": "x", "image": "/etc/passwd"}, {"other": ("b", b"c")}, "mask is not taken"),
        ({"prompt": "x", "image": "/etc/passwd"}, {}, "as 'image'"),
        ({}, {"image": ("a.png", b"x")}, "prompt"),
        ({"prompt": "x", "identity": "no json"}, {"image": ("a.png", b"x")}, "json object"),
        ({"prompt": "x", "identity[a][b][c]": "1"}, {"image": ("a.png", b"x")}, "unknown field"),
        ({"prompt": "x", "identity[strength]": "2"}, {"image": ("a.png", b"x")}, "strength"),
        ({"prompt": "x", "identity[method]": "../x"}, {"image": "PHOTO"}, "unknown inversion"),
    ],
)
def test_a_wrong_form_is_answered_with_its_reason(post, photo, form, files, says):
    files = {
        name: ("a.jpg", photo.read_bytes()) if value == "PHOTO" else value for name, value in files.items()
    }
    answer = post("/v1/images/edits", data=form, files=files)
    assert answer.status_code == 400, answer.text
    assert says in answer.json()["error"]["message"].lower()


def test_the_interface_has_a_page_that_needs_nobody_else(post, server):
    import httpx

    schema = httpx.get(f"{server.address}/v1/openapi.json").json()
    assert {"/v1/images/generations", "/v1/images/edits", "/v1/models"} <= set(schema["paths"])
    assert "identity" in schema["components"]["schemas"]["GenerationRequest"]["properties"]
    page = httpx.get(f"{server.address}/v1/docs").text
    assert "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert asset in page
        assert httpx.get(f"{server.address}/v1/docs-assets/{asset}").status_code == 200
