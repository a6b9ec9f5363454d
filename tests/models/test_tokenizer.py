"""The tokenizer and the chat template."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("transformers")

import torch

from models.tiny.data import render, training_dialogue
from models.tiny.data.dialogue import CALL, CALL_END
from models.tiny.data.pools import NOUNS, VERBS, words
from models.tiny.shared_embeddings import Pieces
from models.tiny.tokenizer import CONTROL, SPACE, build_tokenizer, forms


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(num_tokens=512, num_samples=500)


def test_the_template_writes_what_training_reads(tokenizer: Any) -> None:
    for seed in range(200):
        dialogue = training_dialogue(f"template/{seed}")

        written = tokenizer.apply_chat_template(
            dialogue.messages(),
            tools=[tool.to_dict() for tool in dialogue.tools] or None,
            tokenize=False,
        )

        assert written == render(dialogue)


def test_a_word_has_the_same_tokens_wherever_it_stands_but_for_the_space(tokenizer: Any) -> None:
    def tokens(text: str) -> list[str]:
        return list(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).tokens)

    def follow(found: list[str], alone: list[str]) -> bool:
        firsts = (alone[0], SPACE + alone[0])
        return any(
            found[at] in firsts and found[at + 1 : at + len(alone)] == alone[1:]
            for at in range(len(found))
        )

    for word in ("Zurbarig", "sho_trai-472", "a/b.txt", "x=7!"):
        alone = tokens(word)
        for text in (f"say {word} now", f'{{"key": "{word}"}}', f'{{"key": "{word}", "b": 1}}'):
            assert follow(tokens(text), alone), text


def test_a_space_goes_with_the_piece_after_it(tokenizer: Any) -> None:
    assert len(tokenizer.backend_tokenizer.encode("a b c", add_special_tokens=False).ids) == 3


def test_a_word_is_parted_alike_with_a_capital_a_space_or_both(tokenizer: Any) -> None:
    for word in (*VERBS, *NOUNS, *words()[:300]):
        forms_of_it = (word, word.capitalize(), f" {word}", f" {word.capitalize()}")
        parted = {
            tuple(piece.removeprefix(SPACE).lower() for piece in tokenizer.tokenize(text))
            for text in forms_of_it
        }

        assert len(parted) == 1, parted


def test_forms_say_of_which_piece_a_token_is_one(tokenizer: Any) -> None:
    found = list(forms(tokenizer))
    names = tokenizer.convert_ids_to_tokens

    assert [form.token for form in found] == list(range(len(tokenizer)))
    for form in found:
        piece = names(form.piece)
        text = piece[0].upper() + piece[1:] if form.capital else piece
        assert names(form.token) == SPACE * form.after_space + text
    assert sum(form.after_space for form in found) > 200
    assert sum(form.capital for form in found) > 200


def test_embeddings_of_forms_differ_by_the_same_everywhere(tokenizer: Any) -> None:
    torch.manual_seed(0)
    pieces = Pieces(tokenizer, 8)

    table = pieces()

    for form in forms(tokenizer):
        difference = form.after_space * pieces.space + form.capital * pieces.capital
        torch.testing.assert_close(table[form.token], table[form.piece] + difference)


def test_any_text_survives(tokenizer: Any) -> None:
    text = 'Größe  12.5\n\tif x:\n        print("世界")  '

    ids = tokenizer(text, add_special_tokens=False)["input_ids"]

    assert tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False) == text


def test_marks_of_calls_are_single_tokens_that_a_server_does_not_hide(tokenizer: Any) -> None:
    known = {about.content: about.special for about in tokenizer.added_tokens_decoder.values()}

    assert not known[CALL]
    assert not known[CALL_END]
    assert all(known[token] for token in CONTROL)


def test_the_template_takes_tools_without_parameters_descriptions_or_types(tokenizer: Any) -> None:
    bare = {"type": "function", "function": {"name": "ping"}}
    odd = {
        "type": "function",
        "function": {
            "name": "find",
            "description": "Finds\nit. ",
            "parameters": {
                "type": "object",
                "properties": {"a": {"anyOf": []}, "b": {"type": "integer"}, "c": {}},
                "required": ["a", "b"],
            },
        },
    }
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "hi"}]

    text = tokenizer.apply_chat_template(
        messages, tools=[bare, odd], tokenize=False, add_generation_prompt=True
    )

    assert text == (
        "<|system|>Be brief.\nTools:\n -> ping()\nFinds it. -> find(a, b: integer, c?)\n<|end|>"
        "<|user|>hi<|end|><|assistant|>"
    )


def test_embeddings_are_taken_over_from_their_table(tokenizer: Any) -> None:
    table = Pieces(tokenizer, 8)().detach()
    other = Pieces(tokenizer, 8)

    other.take_over(table)

    torch.testing.assert_close(other(), table)
