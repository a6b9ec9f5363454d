"""Each architecture writes what its own `generate` writes, packed or on the fallback."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from pathlib import Path

import pytest
import torch

from aios_core.cores.transformers.engine import PackedEngine
from aios_core.cores.transformers.kv import KVAccount
from aios_core.cores.transformers.loading import LoadedModel, load_model
from aios_core.cores.transformers.sampling import Sampler
from aios_core.cores.transformers.selfcheck import check_model
from aios_core.cores.transformers.sequence import Engine, Sequence
from aios_core.cores.transformers.unpacked import UnpackedEngine

NUM_TOKENS = 24
GREEDY = Sampler(0.0, 1.0, None, 0)
PACKED = ("llama", "qwen2", "mistral", "gemma2", "gpt_oss", "gpt2")
FALLING_BACK = ("falcon", "bloom", "mamba2")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def engine_for(loaded: LoadedModel) -> Engine:
    checked = check_model(loaded)
    if checked.layout is None:
        return UnpackedEngine(loaded.model)
    return PackedEngine(
        loaded.model, checked.layout, KVAccount(), max_step_tokens=32, chunk_tokens=16
    )


def prompt_of(length: int) -> list[int]:
    random = torch.Generator().manual_seed(length)
    return torch.randint(8, 600, (length,), generator=random).tolist()


def generate(loaded: LoadedModel, prompt: SequenceOf[int]) -> list[int]:
    """Return the answer of the model outside of a core."""
    ids = torch.tensor([prompt])
    out = loaded.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=NUM_TOKENS,
        eos_token_id=10**6,  # nothing ends an answer early, nor is forbidden for it
    )
    return out[0, len(prompt) :].tolist()


def run(engine: Engine, sequences: SequenceOf[Sequence]) -> list[list[int]]:
    while running := [s for s in sequences if s.num_output < NUM_TOKENS]:
        engine.step(running)
    return [s.ids[s.num_prompt :] for s in sequences]


@pytest.mark.filterwarnings("ignore")  # transformers' own, on odd configurations
@pytest.mark.parametrize("kind", [*PACKED, *FALLING_BACK])
def test_a_batch_of_mixed_lengths_says_what_generate_says(
    kind: str, model_folder: Callable[..., Path]
) -> None:
    loaded = load_model(model_folder(kind))
    prompts = [prompt_of(length) for length in (40, 5, 17)]
    expected = [generate(loaded, prompt) for prompt in prompts]

    engine = engine_for(loaded)

    assert isinstance(engine, PackedEngine if kind in PACKED else UnpackedEngine)
    assert run(engine, [Sequence.of(prompt, (), GREEDY) for prompt in prompts]) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", FALLING_BACK)
def test_the_fallback_resumes_from_text_exactly(
    kind: str, dtype: torch.dtype, model_folder: Callable[..., Path]
) -> None:
    engine = UnpackedEngine(load_model(model_folder(kind, dtype)).model)
    sampler = Sampler(0.8, 1.0, None, seed=3)
    alone = run(engine, [Sequence.of(prompt_of(20), (), sampler)])
    sequence = Sequence.of(prompt_of(20), (), sampler)
    while sequence.num_output < 10:
        engine.step([sequence])
    sequence.drop_memory()

    assert run(engine, [sequence]) == alone


def test_a_soft_cap_that_is_ignored_would_be_noticed(
    model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "aios_core.cores.transformers.attention.AttentionNeeds.is_plain_math", False
    )
    loaded = load_model(model_folder("gemma2"))

    checked = check_model(loaded)

    assert checked.layout is None
    assert "differ from the model's own" in checked.problem


def test_a_model_that_fails_the_check_is_left_as_it_was(
    model_folder: Callable[..., Path],
) -> None:
    loaded = load_model(model_folder("falcon"))
    before = generate(loaded, prompt_of(9))
    check_model(loaded)

    assert generate(loaded, prompt_of(9)) == before
