"""The tokenizer and the chat template.

Promises: the same pieces in every position, so that copying a word is copying
its tokens: digits stand alone, signs merge only where JSON writes them. Merges are
learnt from small letters. Each is there again for a word that begins with a capital,
and a space goes with the piece after it, by merges that come last: `Trim`, ` trim`
and ` Trim` are parted as `trim` is, and only the first piece is another. The
pre-tokenizer is the one that llama.cpp knows as `smollm`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from models.tiny.data import render, training_dialogue
from models.tiny.data.dialogue import ASSISTANT, CALL, CALL_END, END, SYSTEM, TOOL, USER

PAD: Final = "<|pad|>"
CONTROL: Final = (PAD, END, SYSTEM, USER, ASSISTANT, TOOL)  # never part of an answer's text
MARKS: Final = (CALL, CALL_END)
NUM_TOKENS: Final = 1024  # before they are there again with a capital, a space, or both
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
    tokenizer.train_from_iterator((sample.lower() for sample in samples), trainer)
    tokenizer.pre_tokenizer = shipped
    tokenizer.decoder = decoders.ByteLevel()
    return _finished(tokenizer)


def _finished(tokenizer: Tokenizer) -> Tokenizer:
    """Add the pieces with capitals and spaces, and leave the marks of calls visible.

    Trainers make every added token special, and servers hide those from parsers.
    """
    about = json.loads(tokenizer.to_str())
    for token in about["added_tokens"]:
        token["special"] = token["content"] not in MARKS
    vocabulary: dict[str, int] = about["model"]["vocab"]
    merges: list[list[str]] = []
    for first, second in about["model"]["merges"]:
        merges.append([first, second])
        if _is_small(first):  # next to it, so that it takes its turn
            vocabulary[_capital(first) + second] = len(vocabulary)
            merges.append([_capital(first), second])
    for piece in [piece for piece in vocabulary if _may_follow_a_space(piece)]:
        vocabulary[SPACE + piece] = len(vocabulary)
        merges.append([SPACE, piece])
    about["model"]["merges"] = merges
    return Tokenizer.from_str(json.dumps(about))


def _is_small(piece: str) -> bool:
    return "a" <= piece[0] <= "z"


def _capital(piece: str) -> str:
    return piece[0].upper() + piece[1:]


def _may_follow_a_space(piece: str) -> bool:
    is_sign = not any(sign.isalnum() for sign in piece)
    return piece.isascii() and (piece.isalpha() or is_sign) and piece not in (*CONTROL, *MARKS)


@dataclass(frozen=True, slots=True)
class Form:
    """A token as a form of another: the same piece without space and capital."""

    token: int
    piece: int
    after_space: bool
    capital: bool


def forms(tokenizer: Any) -> Iterator[Form]:
    """Every token, most of them as a form of themselves, in the order of their ids."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    fixed = {*CONTROL, *MARKS, SPACE}
    for text, token in sorted(vocabulary.items(), key=lambda item: item[1]):
        piece = text if text in fixed else text.removeprefix(SPACE)
        after_space = piece != text
        small = piece[0].lower() + piece[1:]
        capital = "A" <= piece[0] <= "Z" and small in vocabulary
        yield Form(token, vocabulary[small if capital else piece], after_space, capital)


def _shipped() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
