"""The GGUF file in llama.cpp: the same tokens, and the same greedy answers.

Needs `pip install gguf llama-cpp-python` (the latter compiles for some minutes), and
is skipped without them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gguf")
llama_cpp = pytest.importorskip("llama_cpp")
pytest.importorskip("transformers")

import torch  # noqa: E402 - torch and transformers may be missing

from models.tiny.data import evaluation_dialogue  # noqa: E402
from models.tiny.evaluate import load  # noqa: E402
from models.tiny.export_gguf import export  # noqa: E402

TINY = Path(__file__).parents[2] / "models" / "tiny"
CASES = ("ten tools offered", "plain talk", "chain of 2", "execute(language, code)")
MOST = 48  # tokens of an answer


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """Transformers' model and tokenizer, and llama.cpp's."""
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    export(TINY, file)
    return *load(TINY), llama_cpp.Llama(str(file), n_ctx=1024, n_threads=1, verbose=False)


@pytest.mark.parametrize("case", CASES)
def test_llama_cpp_reads_and_says_the_same(both: tuple[Any, Any, Any], case: str) -> None:
    model, tokenizer, llama = both
    for number in range(10):
        dialogue = evaluation_dialogue(case, f"gguf/{number}")
        text = tokenizer.apply_chat_template(
            dialogue.messages(1),
            tools=[tool.to_dict() for tool in dialogue.tools] or None,
            add_generation_prompt=True,
            tokenize=False,
        )
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]

        assert llama.tokenize(text.encode(), add_bos=False, special=True) == ids

        prompt = torch.tensor([ids])
        said = model.generate(prompt, max_new_tokens=MOST, do_sample=False)[0, len(ids) :].tolist()
        llama.reset()
        found: list[int] = []
        for token in llama.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
            found.append(token)
            if token == tokenizer.eos_token_id or len(found) == MOST:
                break
        assert found == said[: len(found)]
