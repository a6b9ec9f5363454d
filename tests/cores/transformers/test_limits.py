"""A text model in this process refuses what it cannot do, by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aios_core import build_llm_request
from aios_core.cores.transformers.limits import require_supported
from aios_core.cores.transformers.sampling import Penalties, Sampler
from aios_core.errors import InvalidRequest
from aios_core.messages import Sampling

IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
LOGITS = torch.tensor([2.0, 1.5, -1.0, 0.0])


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "cannot take an image part"),
        ({"messages": [{"role": "user", "content": [AUDIO]}]}, "cannot take an audio part"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "take a file part"),
        ({"tools": [{"type": "custom", "custom": {"name": "sh"}}]}, "tool 'sh' of type 'custom'"),
        ({"logprobs": True}, "logprobs"),
        ({"n": 2}, "one answer"),
    ],
)
def test_what_the_model_cannot_take_is_refused_by_name(asked: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=f"core 'tiny' .*{named}"):
        require_supported("tiny", build_llm_request(**{"messages": "hi", **asked}))


def test_texts_in_parts_blank_texts_and_penalties_are_taken() -> None:
    parts = [{"type": "text", "text": "hi"}, "there"]
    asked = build_llm_request(
        [{"role": "user", "content": parts}, {"role": "user", "content": ""}], n=1
    )

    require_supported("tiny", asked)


def chosen(prompt: list[int], output: list[int], **sampling: Any) -> int:
    sampler = Sampler.of(Sampling(**sampling))
    assert sampler.penalties is not None
    return sampler.choose(sampler.penalties.apply(LOGITS, prompt, output), len(output))


def test_a_token_that_was_said_is_less_likely() -> None:
    assert chosen([], [0], frequency_penalty=1.0) == 1
    assert chosen([], [0], presence_penalty=1.0) == 1
    assert chosen([0], [], presence_penalty=1.0) == 0, "the prompt does not count for it"
    assert chosen([0], [], repetition_penalty=2.0) == 1, "but for this one"


def test_a_bias_makes_a_token_likely_or_impossible() -> None:
    assert chosen([], [], logit_bias={"3": 100}) == 3
    assert chosen([], [], logit_bias={0: -100, "99": 5}) == 1


def test_a_bias_that_names_no_token_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="got the key 'a'; allowed: token ids"):
        Penalties.of(Sampling(logit_bias={"a": 1}))


def test_min_p_leaves_tokens_that_are_likely_enough() -> None:
    sampler = Sampler.of(Sampling(temperature=1.0, seed=1, min_p=0.5))

    assert {sampler.choose(LOGITS, position) for position in range(200)} == {0, 1}


def test_what_changes_nothing_costs_nothing() -> None:
    assert Sampler.of(Sampling(presence_penalty=0.0, logit_bias={})).is_argmax
