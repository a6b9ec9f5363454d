"""Answer limits are read under the names that providers' clients have for them."""

from __future__ import annotations

from typing import Any

import pytest

from aios_adapters import limit_parameter, read_answer_limits


@pytest.mark.parametrize(
    ("options", "limit", "num_answers"),
    [
        ([{}], None, None),
        ([{"max_tokens": 5}], 5, None),
        ([{"max_completion_tokens": 5, "max_tokens": None}], 5, None),
        ([{"max_tokens": 5}, {"max_completion_tokens": 7}], 7, None),
        ([{"max_tokens": 5, "extra_body": {"max_tokens": 9}}, {"max_tokens": 7}], 9, None),
        ([{"max_output_tokens": 5, "extra_body": None}], 5, None),
        ([{"max_tokens": 5}, {"max_tokens": -1}], None, None),
        ([{"max_tokens": True}], None, None),
        ([{"n": 3}], None, 3),
        ([{"n": 3, "max_tokens": 5}, {"n": 1}], 5, None),
        ([{"n": 1, "best_of": 4}], None, 4),
    ],
)
def test_the_last_word_counts(
    options: list[dict[str, Any]], limit: int | None, num_answers: int | None
) -> None:
    assert read_answer_limits(*options) == {"max_tokens": limit, "n": num_answers}


def test_several_prompts_of_one_call_have_several_answers() -> None:
    assert read_answer_limits({"n": 2}, num_prompts=3) == {"max_tokens": None, "n": 6}


def test_openai_knows_the_limit_by_its_newer_name() -> None:
    assert limit_parameter("https://api.openai.com/v1") == "max_completion_tokens"
    assert limit_parameter("https://mine.openai.azure.com/") == "max_completion_tokens"
    assert limit_parameter("http://localhost:8000/v1") == "max_tokens"
