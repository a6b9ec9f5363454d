"""Measure a checkpoint: `python -m models.tiny.evaluate --sample 100`.

Prints the table of the model card as Markdown, or JSON with `--json`. Every case
is made of words, numbers and tool names that training never saw, and goes
through the checkpoint's own chat template. Decoding is greedy and free: no
grammar fixes a call, except in the row named for it. In a dialogue of several turns
each turn follows the right turns before it; "whole dialogue" means that every turn
was right, and is then the answer that a run without help would have given.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from aios_core.cores.hermes import ToolCallParser
from aios_core.messages import Message, ResponseFormat, ToolSpec
from aios_core.syscalls import LLMGenerate
from models.tiny.batches import spans
from models.tiny.data import CASES, Dialogue, evaluation_dialogue
from models.tiny.data.dialogue import ASSISTANT, END, Turn

HAS_GRAMMAR: Final = "JSON schema, with its grammar"
MODEL: Final = Path(__file__).parent
_QUICK: Final = (
    "six tools of the first trial", "ten tools offered", "several requests", "chain of 2",
    "chain of 3", "side by side", "unseen tool, 5 offered", "no known tool fits", "ReAct text",
    "execute(language, code)", "JSON schema", "handing over", "repeating words",
)  # fmt: skip
_BATCH: Final = 24
_MAX_NEW: Final = 200


@dataclass(frozen=True, slots=True)
class Said:
    """One turn that was asked of the model: what was wanted, whether it came."""

    wanted: Turn
    is_exact: bool
    is_right_tool: bool
    text: str  # what came instead, if it was not exact


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: shares, None where the case has no such turns."""

    case: str
    dialogues: int
    right_tool: float | None
    exact_call: float | None
    exact_answer: float | None
    whole_dialogue: float
    mistakes: tuple[tuple[str, str], ...] = ()  # wanted, answered


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m models.tiny.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of a checkpoint")
    parser.add_argument("--sample", type=int, default=100, help="dialogues of each case")
    parser.add_argument("--case", action="append", choices=tuple(CASES), help="only these")
    parser.add_argument("--json", action="store_true", help="print JSON, with some mistakes")
    args = parser.parse_args(argv)
    model, tokenizer = load(args.model)
    rows = [
        measure(model, tokenizer, case, dialogues(case, args.sample)) for case in args.case or CASES
    ]
    print(json.dumps([asdict(row) for row in rows], indent=1) if args.json else table(rows))


def load(source: str | Path) -> tuple[Any, Any]:
    """Model and tokenizer. Raises `OSError` if there is no checkpoint."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    loader: Any = AutoModelForCausalLM
    return loader.from_pretrained(source, dtype=torch.float32).eval(), tokenizer


def dialogues(case: str, sample: int) -> list[Dialogue]:
    return [evaluation_dialogue(case, str(at)) for at in range(sample)]


def measure(model: Any, tokenizer: Any, case: str, those: Sequence[Dialogue]) -> Row:
    said = ask(model, tokenizer, those, has_grammar=case == HAS_GRAMMAR)
    flat = [turn for turns in said for turn in turns]
    calls = [turn for turn in flat if turn.wanted.calls]
    answers = [turn for turn in flat if not turn.wanted.calls]
    return Row(
        case,
        len(those),
        _share(turn.is_right_tool for turn in calls),
        _share(turn.is_exact for turn in calls),
        _share(turn.is_exact for turn in answers),
        _share(all(turn.is_exact for turn in turns) for turns in said) or 0.0,
        tuple((turn.wanted.body(), turn.text) for turn in flat if not turn.is_exact)[:5],
    )


def ask(
    model: Any, tokenizer: Any, those: Sequence[Dialogue], *, has_grammar: bool = False
) -> list[list[Said]]:
    """Generate the model's answer for each of its own turns."""
    exact = _exact(model, tokenizer, those)
    missed = [
        (dialogue, at)
        for dialogue, hits in zip(those, exact, strict=True)
        for at, hit in zip(dialogue.targets(), hits, strict=True)
        if not hit
    ]
    prompts = [_prompt(tokenizer, dialogue, at) for dialogue, at in missed]
    if has_grammar:
        rules = [dialogue for dialogue, _ in missed]
        texts = iter(generate_by_grammar(model, tokenizer, prompts, rules))
    else:
        texts = iter(generate(model, tokenizer, prompts))
    return [
        [
            Said(dialogue.turns[at], True, True, "")
            if hit
            else _judge(dialogue.turns[at], next(texts))
            for at, hit in zip(dialogue.targets(), hits, strict=True)
        ]
        for dialogue, hits in zip(those, exact, strict=True)
    ]


def quick_check(model: Any, tokenizer: Any, sample: int) -> Mapping[str, float]:
    """The share of whole dialogues that are exact, for some of the cases. Nothing is generated."""
    found = {}
    for case in _QUICK:
        hits = _exact(model, tokenizer, dialogues(case, sample))
        found[case] = sum(all(turns) for turns in hits) / sample
    return found


def table(rows: Iterable[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| case | dialogues | right tool | exact call | exact answer | whole dialogue |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        shares = (row.right_tool, row.exact_call, row.exact_answer, row.whole_dialogue)
        cells = " | ".join("" if share is None else f"{share:.2f}" for share in shares)
        lines.append(f"| {row.case} | {row.dialogues} | {cells} |")
    return "\n".join(lines)


@torch.inference_mode()
def generate(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """Generate greedily after each prompt, without control tokens."""
    tokenizer.padding_side = "left"
    end = tokenizer.eos_token_id
    texts = []
    for start in range(0, len(prompts), _BATCH):
        batch = tokenizer(
            list(prompts[start : start + _BATCH]),
            add_special_tokens=False, padding=True, return_tensors="pt",
            return_token_type_ids=False,
        ).to(model.device)  # fmt: skip
        width = batch["input_ids"].shape[1]
        out = model.generate(
            **batch, max_new_tokens=_MAX_NEW, do_sample=False, use_cache=True,
            eos_token_id=end, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        for row in out[:, width:].tolist():
            ids = row[: row.index(end)] if end in row else row
            texts.append(tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False))
    return texts


@torch.inference_mode()
def generate_by_grammar(
    model: Any, tokenizer: Any, prompts: Sequence[str], those: Sequence[Dialogue]
) -> list[str]:
    """Generate under each dialogue's schema or a call of its first tool, as cores do it."""
    from aios_core.cores.transformers.grammar import GrammarCompiler  # noqa: PLC0415 - for this

    end = tokenizer.eos_token_id
    compiler = GrammarCompiler(tokenizer, model.config.vocab_size, [end])
    texts = []
    for prompt, dialogue in zip(prompts, those, strict=True):
        request = LLMGenerate(
            (Message("user", "?"),),
            tools=tuple(ToolSpec(**tool.to_dict()["function"]) for tool in dialogue.tools),
            tool_choice="required" if dialogue.tools else "auto",
            parallel_tool_calls=False,
            response_format=None if dialogue.tools else ResponseFormat(dialogue.schema),
        )
        grammar = compiler.compile(compiler.describe(request) or "")
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        said: list[int] = []
        cache = DynamicCache(config=model.config)
        while len(said) < _MAX_NEW and not grammar.is_done:
            logits = model(input_ids=ids, cache=cache, use_cache=True).logits[0, -1]
            grammar.restrict(logits)
            token = int(logits.argmax())
            if token == end:
                break
            grammar.accept(token)
            said.append(token)
            ids = torch.tensor([[token]])
        texts.append(tokenizer.backend_tokenizer.decode(said, skip_special_tokens=False))
    return texts


@torch.inference_mode()
def _exact(model: Any, tokenizer: Any, those: Sequence[Dialogue]) -> list[list[bool]]:
    """For each turn of the model's: whether greedy decoding gives it token by token."""
    found: list[list[bool]] = [[] for _ in those]
    rows = [
        tokenizer(_text(tokenizer, one, len(one.turns), False), add_special_tokens=False)
        for one in those
    ]
    begin, end = (tokenizer.convert_tokens_to_ids(token) for token in (ASSISTANT, END))
    order = sorted(range(len(those)), key=lambda at: len(rows[at]["input_ids"]))
    for start in range(0, len(order), _BATCH):
        group = order[start : start + _BATCH]
        width = len(rows[group[-1]]["input_ids"])
        ids = torch.zeros(len(group), width, dtype=torch.long, device=model.device)
        for line, at in enumerate(group):
            row = rows[at]["input_ids"]
            ids[line, : len(row)] = torch.tensor(row)
        best = model(input_ids=ids, use_cache=False).logits.argmax(-1).tolist()
        for line, at in enumerate(group):
            row = rows[at]["input_ids"]
            found[at] = [row[a:b] == best[line][a - 1 : b - 1] for a, b in spans(row, begin, end)]
    return found


def _judge(wanted: Turn, text: str) -> Said:
    """Calls count as exact when they are equal as JSON."""
    if not wanted.calls:
        return Said(wanted, text.strip() == wanted.body(), False, text)
    parser = ToolCallParser()
    parser.push(text)
    parser.finish()
    got = [(call.name, json.loads(call.arguments)) for call in parser.tool_calls]
    want = [(call.name, dict(call.arguments)) for call in wanted.calls]
    is_right_tool = [name for name, _ in got] == [name for name, _ in want]
    return Said(wanted, got == want, is_right_tool, text)


def _prompt(tokenizer: Any, dialogue: Dialogue, at: int) -> str:
    return _text(tokenizer, dialogue, at, True)


def _text(tokenizer: Any, dialogue: Dialogue, until: int, add_generation_prompt: bool) -> str:
    return str(
        tokenizer.apply_chat_template(
            dialogue.messages(until),
            tools=[tool.to_dict() for tool in dialogue.tools] or None,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
        )
    )


def _share(hits: Iterable[bool]) -> float | None:
    listed = list(hits)
    return sum(listed) / len(listed) if listed else None


if __name__ == "__main__":
    main()
