"""Which step of a pipeline call a forward pass belongs to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, HeunDiscreteScheduler, PNDMScheduler

from idpersona.errors import BadInput, SeamError
from idpersona.seams.call import Call
from idpersona.seams.scale import check_window


def call_for(scheduler: Any, steps: int = 4) -> Call:
    scheduler.set_timesteps(steps)
    return Call(SimpleNamespace(scheduler=scheduler, do_classifier_free_guidance=True))


def passes(call: Call, first: int = 0, *, asked: int = 1) -> list[tuple[int, int]]:
    """What ``step`` says in every pass from number ``first`` on, each seam of an adapter asking once."""
    found = []
    for timestep in call.pipe.scheduler.timesteps[first:]:
        call.begin(torch.zeros(2, 4, 8, 8), timestep)
        answers = {call.step() for _ in range(asked)}
        assert len(answers) == 1, "all seams of one pass are in the same step"
        found.append(answers.pop())
    return found


@pytest.mark.parametrize("scheduler", [DDIMScheduler, HeunDiscreteScheduler, PNDMScheduler])
@pytest.mark.parametrize("asked", [1, 2])
def test_steps_are_counted_once_for_each_pass(scheduler: Any, asked: int) -> None:
    """Heun and PNDM list a timestep twice in a row."""
    call = call_for(scheduler(skip_prk_steps=True) if scheduler is PNDMScheduler else scheduler())
    count = len(call.pipe.scheduler.timesteps)
    assert passes(call, asked=asked) == [(step, count) for step in range(count)]


def test_image_to_image_starts_inside_the_list() -> None:
    call = call_for(DDIMScheduler(), steps=5)
    assert passes(call, first=2) == [(0, 3), (1, 3), (2, 3)]


@pytest.mark.parametrize("first", [1, 2, 4, 7])
def test_heun_may_start_at_the_second_of_two_equal_timesteps(first: int) -> None:
    """As diffusers does image to image: it says where in ``begin_index``."""
    call = call_for(HeunDiscreteScheduler(), steps=5)
    call.pipe.scheduler.set_begin_index(first)
    left = len(call.pipe.scheduler.timesteps) - first
    assert passes(call, first=first) == [(step, left) for step in range(left)]


def test_the_count_of_an_earlier_call_is_not_believed() -> None:
    call = call_for(DDIMScheduler(), steps=5)
    call.pipe._num_timesteps = 50
    assert passes(call) == [(step, 5) for step in range(5)]


def test_a_pipeline_that_was_not_called_is_told() -> None:
    class Other:
        scheduler = DDIMScheduler()

        @property
        def do_classifier_free_guidance(self) -> bool:
            return self._guidance_scale > 1  # type: ignore[attr-defined]

    Other.scheduler.set_timesteps(4)
    with pytest.raises(SeamError, match="attach to the pipeline that you call"):
        Call(Other()).begin(torch.zeros(2, 4, 8, 8), Other.scheduler.timesteps[0])


def test_latents_of_videos_are_refused() -> None:
    call = call_for(DDIMScheduler())
    with pytest.raises(SeamError, match="video pipelines"):
        call.begin(torch.zeros(2, 4, 5, 8, 8), call.pipe.scheduler.timesteps[0])


def test_a_timestep_of_another_schedule_is_refused() -> None:
    call = call_for(DDIMScheduler())
    call.begin(torch.zeros(2, 4, 8, 8), torch.tensor(123456))
    with pytest.raises(SeamError, match="123456"):
        call.step()


@pytest.mark.parametrize("window", [("a", 1.0), (0.0, None), ([0.0], 1.0)])
def test_a_window_is_two_numbers(window: Any) -> None:
    with pytest.raises(BadInput, match="start and end"):
        check_window(*window)
