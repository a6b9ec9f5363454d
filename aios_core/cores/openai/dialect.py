"""The extensions of OpenAI's chat format that servers support.

A vLLM server counts prompts, reports its KV memory, takes the kernel's priority, and lets a run be
preempted: the run is aborted, and continues later after the tokens that it had generated. Tool
calls, constrained answers and seeded sampling cannot be cut in two; such runs are not preempted.
An SGLang server reports its KV memory, if it was started with `--enable-metrics`.

Which dialect a server has is often known only after it was asked (`Dialect.of_cards`), so it is a
part of a core and not a class of cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aios_core.core import Run
from aios_core.cores.openai.chunks import ChunkReader
from aios_core.cores.openai.metrics_watch import SignalsReader
from aios_core.cores.openai.sglang_metrics import read_sglang
from aios_core.cores.openai.vllm_metrics import read_vllm
from aios_core.cores.openai.wire import Flavor, resume_body, resume_ids_body
from aios_core.cores.streaming import LiveRun
from aios_core.snapshot import Snapshot

FREE_CHOICES: Final = ("auto", "none")  # tool choices that force nothing


@dataclass(frozen=True, slots=True)
class Dialect:
    """The extensions of one kind of server. By default there are none."""

    flavor: Flavor = "openai"
    counts_prompts: bool = False  # has `/tokenize`
    read_signals: SignalsReader | None = None  # reads its `/metrics`; None: it has none
    seeds: bool = False  # the same seed gives the same answer
    preemptible: bool = False  # a run can continue after its own tokens
    notes: tuple[str, ...] = ()

    @staticmethod
    def of_cards(cards: Iterable[object]) -> Dialect:
        """Return the dialect of the server that listed models with these cards."""
        owners = {getattr(card, "owned_by", "") for card in cards}
        return next((_BY_OWNER[owner] for owner in _BY_OWNER if owner in owners), PLAIN)


_RESUMES: Final = (
    "a preempted call continues after its own tokens: greedily with the same text, up to"
    " the server's rounding; calls with a seed, a schema or a begun tool call continue"
)
PLAIN: Final = Dialect()
VLLM: Final = Dialect(
    "vllm",
    counts_prompts=True,
    read_signals=read_vllm,
    seeds=True,
    preemptible=True,
    notes=(_RESUMES,),
)
SGLANG: Final = Dialect("sglang", read_signals=read_sglang)
DIALECTS: Final[Mapping[Flavor, Dialect]] = {"openai": PLAIN, "vllm": VLLM, "sglang": SGLANG}
_BY_OWNER: Final = {"vllm": VLLM, "sglang": SGLANG}  # of the models that a server lists


def can_resume(live: LiveRun) -> bool:
    """Return whether a run can continue later: not with a grammar, a tool parser or a seed."""
    request, sampling = live.run.request, live.run.request.sampling
    form = request.response_format
    is_free = (form is None or not form.is_constraint) and request.chosen_tool in FREE_CHOICES
    is_seeded = sampling.seed is not None and not sampling.is_surely_greedy
    is_one_text = sampling.num_choices == 1 and not sampling.logprobs
    has_ids = bool(live.output_ids and live.prompt_ids)
    is_whole = isinstance(live.memo, ChunkReader) and live.memo.is_whole
    is_cuttable = has_ids and live.answer.is_text_only and not is_whole
    return is_free and not is_seeded and is_one_text and is_cuttable


def resume_request(
    run: Run, body: Mapping[str, Any], was: Snapshot, limit_key: str
) -> tuple[str, dict[str, Any]]:
    """Return the path and the body of the request that continues a preempted run."""
    may_call = run.request.tools and run.request.chosen_tool != "none"
    if may_call or run.request.sampling.stop:  # needs the chat's parsers
        return "/chat/completions", resume_body(body, was, limit_key)
    return "/completions", resume_ids_body(body, was, limit_key)
