"""Contract 4: identities in a batch are each as alone; every way of calling a pipeline works."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from idpersona.errors import BadInput, SeamError
from idpersona.seams.call import is_quiet

ATOL = 1e-4  # fp32 sums in another order when the batch is larger


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=ATOL)


@pytest.mark.parametrize("guidance", [5.0, 1.0])
@pytest.mark.parametrize("guess_mode", [False, True])
def test_two_identities_are_each_as_alone(row: Any, guidance: float, guess_mode: bool) -> None:
    people = [row.person(1), row.person(2)]
    prompts = ["a photo of a man", "a drawing of a woman"]
    alone = []
    if guess_mode and "guess_mode" not in row.adapter.options:
        pytest.skip("the adapter has no guess mode")
    mode = {"guess_mode": True} if guess_mode else {}
    for person, prompt in zip(people, prompts, strict=True):
        with row.attach(person, **mode):
            alone.append(row.draw(prompt=prompt, guidance_scale=guidance))
    with row.attach(people, **mode):
        both = row.draw(prompt=prompts, guidance_scale=guidance)
    assert close(both, torch.cat(alone))
    assert not close(alone[0], alone[1])


def test_pictures_of_one_prompt_lie_next_to_each_other(row: Any) -> None:
    people = [row.person(1), row.person(2)]
    alone = []
    for person in people:
        with row.attach(person):
            alone.append(row.draw())
    with row.attach(people):
        four = row.draw(prompt=["a photo of a smiling man"] * 2, num_images_per_prompt=2)
    assert close(four, torch.cat([alone[0], alone[0], alone[1], alone[1]]))


def test_one_identity_serves_a_list_of_prompts(row: Any) -> None:
    prompts = ["a photo of a man", "a drawing of a woman"]
    with row.attach(row.person(1)):
        alone = [row.draw(prompt=prompt) for prompt in prompts]
        assert close(row.draw(prompt=prompts), torch.cat(alone))


def test_prompt_embeds(row: Any) -> None:
    names = ["prompt_embeds", "negative_prompt_embeds"]
    encoded = row.pipe.encode_prompt(
        "a photo of a smiling man",
        device=torch.device("cpu"),
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
    )
    if len(encoded) == 4:
        names += ["pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
    with row.attach(row.person(1)):
        assert close(row.draw(prompt=None, **dict(zip(names, encoded, strict=True))), row.draw())


def test_guidance_and_guess_mode_all_matter(row: Any) -> None:
    outputs = []
    for guidance in (5.0, 1.0):
        for mode in ({}, {"guess_mode": True}) if "guess_mode" in row.adapter.options else ({},):
            with row.attach(row.person(1), **mode):
                outputs.append(row.draw(guidance_scale=guidance))
    for i, one in enumerate(outputs):
        assert all(not torch.allclose(one, other, atol=1e-3) for other in outputs[i + 1 :])


def test_the_unconditional_half_sees_the_zero_vector(row: Any) -> None:
    """What the unconditional rows predict = what a pass without guidance predicts for a zero face vector."""
    seen: list[torch.Tensor] = []

    def watch(_module: Any, _args: Any, output: Any) -> None:
        if is_quiet(row.pipe.unet):
            return
        sample = output[0] if isinstance(output, tuple) else output.sample
        seen.append(sample.chunk(2)[0] if row.pipe.do_classifier_free_guidance else sample)

    known = row.person(1)
    zero = {name: replace(f, values=np.zeros_like(f.values)) for name, f in known.features.items()}
    call = {"prompt": "", "num_inference_steps": 1}
    handle = row.pipe.unet.register_forward_hook(watch)
    try:
        with row.attach(known):
            row.draw(**call, negative_prompt="", guidance_scale=5.0)
        with row.attach(replace(known, features=zero)):
            row.draw(**call, guidance_scale=1.0)
        row.draw(**call, guidance_scale=1.0)
    finally:
        handle.remove()
    unconditional, zero_person, base = seen
    assert close(unconditional, zero_person)
    assert not torch.allclose(unconditional, base, atol=1e-2)


def test_a_number_of_pictures_that_cannot_be_shared_is_refused(row: Any) -> None:
    people = [row.person(seed) for seed in (1, 2, 3)]
    with pytest.raises(SeamError, match="3 identities"), row.attach(people):
        row.draw(num_images_per_prompt=2)


def test_an_identity_is_needed(row: Any) -> None:
    for nothing in (None, [], "me.jpg"):
        with pytest.raises(BadInput), row.adapter.attach(row.pipe, nothing, **row.options):
            pytest.fail("the scope was entered")
    with pytest.raises(BadInput, match="bogus"), row.attach(row.person(1), bogus=1):
        pytest.fail("the scope was entered")
