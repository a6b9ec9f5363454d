"""Interrupted answers equal uninterrupted ones, token for token, in any batch."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from aios_core.cores.transformers.engine import PackedEngine
from aios_core.cores.transformers.kv import DeviceKV, KVAccount, KVSequenceImage
from aios_core.cores.transformers.loading import LoadedModel, load_model
from aios_core.cores.transformers.sampling import Sampler
from aios_core.cores.transformers.selfcheck import find_layout, use_packed_attention
from aios_core.cores.transformers.sequence import Sequence

NUM_TOKENS = 24
GREEDY = Sampler(0.0, 1.0, None, 0)
FORMATS = [torch.float32, torch.bfloat16]

Interrupt = Callable[[Sequence, "Bench", Path], None]


class Bench:
    """An engine, the sequences that it runs, and the answer of each when it runs alone."""

    def __init__(self, loaded: LoadedModel) -> None:
        use_packed_attention(loaded.model)
        self.layout = find_layout(loaded)
        self.account = KVAccount()
        self.engine = PackedEngine(
            loaded.model, self.layout, self.account, max_step_tokens=48, chunk_tokens=16
        )

    def sequences(self, count: int) -> list[Sequence]:
        """Prompts of 3 to 60 tokens; every other one is sampled."""
        dice = random.Random(7)
        return [
            Sequence.of(
                [dice.randrange(8, 600) for _ in range(dice.randrange(3, 60))],
                (),
                Sampler(0.9, 0.95, 50, seed=i) if i % 2 else GREEDY,
            )
            for i in range(count)
        ]

    def finish(self, sequence: Sequence) -> list[int]:
        """Run a sequence alone to its end. Its output."""
        while sequence.num_output < NUM_TOKENS:
            self.engine.step([sequence])
        sequence.drop_memory()
        return sequence.ids[sequence.num_prompt :]


@pytest.fixture(params=FORMATS, ids=str)
def bench(request: pytest.FixtureRequest, model_folder: Callable[..., Path]) -> Bench:
    torch.set_num_threads(1)
    return Bench(load_model(model_folder("llama", request.param)))


def keep_on_device(sequence: Sequence, bench: Bench, _folder: Path) -> None:
    image = image_of(sequence)
    sequence.memory = image.take(bench.layout, bench.account)


def move_to_host(sequence: Sequence, bench: Bench, _folder: Path) -> None:
    image = image_of(sequence)
    image.to_host()
    sequence.memory = image.take(bench.layout, bench.account)


def move_to_disk(sequence: Sequence, bench: Bench, folder: Path) -> None:
    image = image_of(sequence)
    image.to_disk(folder / "image.safetensors")
    image = KVSequenceImage.open(folder / "image.safetensors", bench.layout)
    sequence.memory = image.take(bench.layout, bench.account)


def keep_text_only(sequence: Sequence, _bench: Bench, _folder: Path) -> None:
    sequence.drop_memory()


def image_of(sequence: Sequence) -> KVSequenceImage:
    assert isinstance(sequence.memory, DeviceKV)
    return KVSequenceImage.of(sequence.memory)


@pytest.mark.parametrize(
    "interrupt",
    [keep_on_device, move_to_host, move_to_disk, keep_text_only],
    ids=lambda f: f.__name__,
)
def test_interrupted_sequences_in_mixed_batches_say_what_each_says_alone(
    bench: Bench, interrupt: Interrupt, tmp_path: Path
) -> None:
    alone = [bench.finish(sequence) for sequence in bench.sequences(8)]
    dice = random.Random(1)
    sequences = bench.sequences(8)
    num_interruptions = 0
    while running := [s for s in sequences if s.num_output < NUM_TOKENS]:
        bench.engine.step(dice.sample(running, dice.randint(1, len(running))))
        for sequence in running:
            if sequence.num_computed and dice.random() < 0.15:
                interrupt(sequence, bench, tmp_path)
                num_interruptions += 1

    assert num_interruptions > 20
    assert [s.ids[s.num_prompt :] for s in sequences] == alone


@pytest.mark.parametrize("interruptions", [1, 5, 50])
@pytest.mark.parametrize("interrupt", [move_to_host, keep_text_only], ids=lambda f: f.__name__)
def test_any_number_of_interruptions_changes_nothing(
    bench: Bench, interruptions: int, interrupt: Interrupt, tmp_path: Path
) -> None:
    number = 3  # a sampled one
    alone = bench.finish(bench.sequences(4)[number])
    sequence = bench.sequences(4)[number]
    places = sorted(random.Random(2).choices(range(NUM_TOKENS), k=interruptions))
    for place in places:
        while sequence.num_output < place:
            bench.engine.step([sequence])
        if sequence.num_computed:
            interrupt(sequence, bench, tmp_path)

    assert bench.finish(sequence) == alone


def test_sampled_sequences_differ_by_seed(bench: Bench) -> None:
    prompt = list(range(10, 30))
    answers = {
        tuple(bench.finish(Sequence.of(prompt, (), Sampler(1.0, 1.0, None, seed))))
        for seed in range(4)
    }

    assert len(answers) == 4


def test_memory_is_accounted_while_it_is_held(bench: Bench) -> None:
    sequence = bench.sequences(1)[0]
    bench.engine.step([sequence])
    while_held = bench.account.num_tokens
    image = image_of(sequence)
    as_image = bench.account.num_tokens
    image.to_host()

    assert while_held == as_image == sequence.num_prompt == image.num_tokens
    assert bench.account.num_tokens == 0
