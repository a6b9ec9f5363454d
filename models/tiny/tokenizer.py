"""The tokenizer and the chat template.

Promises: the same pieces in every position, so that copying a word is copying
its tokens: digits stand alone, signs merge only where JSON writes them. A space
goes with the piece after it, by merges that come last: a word after a space is
parted as it is without, and only its first piece is another. The pre-tokenizer
is the one that llama.cpp knows as `smollm`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from models.tiny.data import render, training_dialogue
from models.tiny.data.dialogue import ASSISTANT, CALL, CALL_END, END, SYSTEM, TOOL, USER

PAD: Final = "<|pad|>"
CONTROL: Final = (PAD, END, SYSTEM, USER, ASSISTANT, TOOL)  # never part of an answer's text
MARKS: Final = (CALL, CALL_END)
NUM_TOKENS: Final = 1152  # before each that may follow a space is there again, with it
WINDOW: Final = 1024  # training has seen no longer dialogues
_NUM_SAMPLES: Final = 12_000
SPACE: Final = "\u0120"  # as byte-level tokenizers write it
_PIECES: Final = r'"\}\}|\{"|":|",|"\}|\}\}|->|[ \n]|[^\w\s]|_'  # where signs may merge


def chat_template() -> str:
    return Path(__file__).with_name("template.jinja").read_text(encoding="utf-8").rstrip("\n")


def build_tokenizer(
    seed: int = 1, num_tokens: int = NUM_TOKENS, num_samples: int = _NUM_SAMPLES
) -> PreTrainedTokenizerFast:
    """Learn the merges from dialogues of the training side."""
    samples = (render(training_dialogue(f"tokenizer/{seed}/{at}")) for at in range(num_samples))
    return wrap(_learn(samples, num_tokens))


def wrap(core: Tokenizer) -> PreTrainedTokenizerFast:
    make: Any = PreTrainedTokenizerFast
    tokenizer = make(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT, TOOL],
        model_max_length=WINDOW,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat_template()
    return tokenizer  # type: ignore[no-any-return]


def _learn(samples: Iterable[str], num_tokens: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    shipped = _shipped()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # finer than what is shipped
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens,
        special_tokens=[*CONTROL, *MARKS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(samples, trainer)
    tokenizer.pre_tokenizer = shipped
    tokenizer.decoder = decoders.ByteLevel()
    return _finished(tokenizer)


def _finished(tokenizer: Tokenizer) -> Tokenizer:
    """Glue spaces to what follows them, and leave the marks of calls visible.

    Trainers make every added token special, and servers hide those from parsers.
    """
    about = json.loads(tokenizer.to_str())
    for token in about["added_tokens"]:
        token["special"] = token["content"] not in MARKS
    vocabulary, merges = about["model"]["vocab"], about["model"]["merges"]
    for piece in [piece for piece in vocabulary if _may_follow_a_space(piece)]:
        vocabulary[SPACE + piece] = len(vocabulary)
        merges.append([SPACE, piece])
    return Tokenizer.from_str(json.dumps(about))


def _may_follow_a_space(piece: str) -> bool:
    is_sign = not any(sign.isalnum() for sign in piece)
    return piece.isascii() and (piece.isalpha() or is_sign) and piece not in (*CONTROL, *MARKS)


def glued(tokenizer: Any) -> Iterator[tuple[int, int, int]]:
    """The ids of the space, of each piece that a space goes with, and of both in one."""
    vocabulary = tokenizer.get_vocab()
    for piece, both in vocabulary.items():
        if piece.startswith(SPACE) and piece != SPACE:
            yield vocabulary[SPACE], vocabulary[piece.removeprefix(SPACE)], both


def _shipped() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
