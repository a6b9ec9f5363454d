"""The synthetic dialogues: seeded, and apart for training and evaluation."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from models.tiny.data import CASES, MIXTURES, Dialogue, Pool, evaluation_dialogue, training_dialogue
from models.tiny.data.dialogue import Call, render
from models.tiny.data.pools import CITIES, NOUNS, PEOPLE, VERBS, is_held_out, words
from models.tiny.data.skills import SKILLS
from models.tiny.data.unseen import routing, unseen

ATOMS = {
    "word": Pool.word,
    "english": Pool.english,
    "invented": Pool.invented,
    "number": Pool.number,
    "city": Pool.city,
    "person": Pool.person,
    "verb": Pool.verb,
    "noun": Pool.noun,
    "code": Pool.code,
}


@pytest.mark.parametrize("kind", ATOMS)
def test_training_and_evaluation_share_no_atom(kind: str) -> None:
    training, evaluation = Pool("a"), Pool("a", held_out=True)

    trained = {ATOMS[kind](training).lower() for _ in range(2000)}
    evaluated = {ATOMS[kind](evaluation).lower() for _ in range(300)}

    assert not trained & evaluated
    assert not any(map(is_held_out, trained))
    assert all(map(is_held_out, evaluated))


@pytest.mark.parametrize("pool", [words(), CITIES, PEOPLE, VERBS, NOUNS], ids=len)
def test_both_sides_have_something_of_every_list(pool: tuple[str, ...]) -> None:
    held_out = [word for word in pool if is_held_out(word)]

    assert 0.04 < len(held_out) / len(pool) < 0.25


def test_no_unseen_tool_of_the_evaluation_was_offered_in_training() -> None:
    training, evaluation = Pool("tools"), Pool("tools", held_out=True)
    known = {name for skill in SKILLS for name in skill.names}

    trained = {tool.name for _ in range(400) for tool in unseen(training).tools} - known
    evaluated = {
        tool.name for _ in range(100) for tool in unseen(evaluation, known_share=0.0).tools
    }

    assert not trained & evaluated


def test_numbers_asked_about_in_training_are_never_those_of_the_evaluation() -> None:
    def numbers(dialogues: list[Dialogue]) -> set[str]:
        asked = " ".join(d.turns[0].text for d in dialogues if d.family == "single")
        return set(re.findall(r"(?<![\w./+%#@:=&-])\d{3,}(?![\w./%#@:=&-])", asked))

    trained = numbers([training_dialogue(str(seed)) for seed in range(1500)])
    evaluated = numbers([evaluation_dialogue("ten tools offered", str(n)) for n in range(100)])

    assert trained
    assert evaluated
    assert not trained & evaluated


def test_equal_seeds_give_equal_dialogues_in_any_order() -> None:
    seeds = [str(seed) for seed in range(50)]

    forwards = [training_dialogue(seed) for seed in seeds]
    backwards = [training_dialogue(seed) for seed in reversed(seeds)]

    assert forwards == backwards[::-1]
    assert len({render(dialogue) for dialogue in forwards}) == len(forwards)


@pytest.mark.parametrize("case", CASES)
def test_every_case_ends_with_something_that_the_model_has_to_say(case: str) -> None:
    for seed in range(10):
        dialogue = evaluation_dialogue(case, str(seed))

        assert dialogue.targets()[-1] == len(dialogue.turns) - 1
        assert all(
            one.role != two.role or one.role == "tool" for one, two in pairwise(dialogue.turns)
        )


def test_calls_name_a_tool_that_is_offered_and_fill_its_parameters() -> None:
    dialogues = [training_dialogue(f"calls/{seed}") for seed in range(400)]

    for dialogue in dialogues:
        offered = {tool.name: {param.name for param in tool.params} for tool in dialogue.tools}
        assert len(offered) == len(dialogue.tools)
        made: list[Call] = [call for turn in dialogue.turns for call in turn.calls]
        assert all(offered[call.name] == set(call.arguments) for call in made)


def test_the_mixture_has_every_family() -> None:
    dialogues = [family(Pool("families")) for _, family in MIXTURES["all"]]

    assert {dialogue.family for dialogue in dialogues} >= {
        "single", "history", "chain", "parallel", "unseen", "unfit", "refusal", "react",
        "execution", "schema", "handover", "finishing", "talk", "echo",
    }  # fmt: skip


def test_training_repeats_itself_more_than_the_evaluation_does() -> None:
    """Copied text then has similar text nearby, more often than in any case measured."""

    def repeated(*, held_out: bool) -> float:
        texts = [Pool(f"again/{at}", held_out=held_out).text(8).split() for at in range(600)]
        return sum(len(set(words)) < len(words) for words in texts) / len(texts)

    assert repeated(held_out=False) > 1.5 * repeated(held_out=True)


def test_names_in_the_stage_of_routing_say_nothing_of_what_is_asked() -> None:
    dialogues = [routing(Pool(f"routing/{at}")) for at in range(200)]

    told = [
        any(part in turn.text.lower() for part in call.calls[0].name.lower().split("_"))
        for dialogue in dialogues
        for turn, call in zip(dialogue.turns[::2], dialogue.turns[1::2], strict=True)
    ]
    assert sum(told) / len(told) < 0.05


def test_numbers_of_two_digits_alone_are_as_frequent_in_training_as_said() -> None:
    """By chance one of 70 numbers of five digits has at most two different ones."""
    pool = Pool("monotonous")
    long = [number for _ in range(6000) if len(number := pool.number()) == 5]

    share = sum(len(set(number)) <= 2 for number in long) / len(long)
    assert 0.08 < share < 0.25


@pytest.mark.parametrize("fragment", ["terminate", "another", "then", "istant", "datab"])
def test_what_the_programs_own_sentences_say_is_copied_too(fragment: str) -> None:
    """A piece of the tokenizer that stands in no word of a request would never be learnt."""
    pool = Pool("fragments")

    assert any(fragment in pool.english() for _ in range(30_000))


def test_training_has_letters_and_signs_that_the_lists_do_not_have() -> None:
    training = Pool("rare")
    trained = {sign for _ in range(30_000) for sign in training.word() + training.code()}

    assert len({sign for sign in trained if not sign.isascii()}) > 200
    assert trained >= set("áß京€;|~$")
