"""Limit the tokens of answers, count them, and check reported usage for plausibility.

The limit is the caller's, or the rest of its budget; it holds even if a core ignores it. A core's
own count is accepted as far as it is consistent with the text that it sent. Pure.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, Final, Literal, NamedTuple, cast

from aios_core.budget import FREE, Cost, Price
from aios_core.core import Prepared, Progress
from aios_core.messages import Delta, Message, ToolCall, ToolCallDelta, Usage
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate
from aios_core.token_estimate import TokenRatio, answer_texts, at_least
from aios_core.untrusted.reported_numbers import MOST_TOKENS, whole_number

LimitedBy = Literal["max_tokens", "window", "budget"]

_FORGIVEN: Final = 4  # factor by which a core with a tokenizer may differ from the lower bound


class Taken(NamedTuple):
    """The part of a run's progress that goes to the caller, and whether the answer ends."""

    delta: Delta
    is_over: bool = False


class _Received(NamedTuple):
    """The counts of an allowance at one time."""

    num_tokens: int = 0
    num_estimated: int = 0
    reported: int = 0
    least: int = 0
    num_deltas: int = 0


@dataclass(slots=True, eq=False)
class Allowance:
    """The limits of a call's answer, and what all of its runs have generated so far.

    Tokens are those of all choices together, if the call requests several.
    """

    request: LLMGenerate
    prepared: Prepared
    price: Price
    ratio: TokenRatio
    prompt_tokens: int  # counted, or estimated if the core cannot count
    limit: int | None = None  # never exceeded; None: neither caller nor budget sets one
    limited_by: LimitedBy = "window"
    reserved: int | None = None  # tokens reserved for the answer; None: no budget limits it
    num_tokens: int = 0  # that have certainly arrived
    num_estimated: int = 0  # that have arrived by estimate
    received: list[Delta] = field(default_factory=list)  # a cut answer is made of them
    is_external: bool = False  # its caller gets the answer directly, so the kernel cannot cut it
    _kept: _Received | None = None  # when the current run started; None: nothing had arrived
    _reported: int = 0  # tokens that a core with a tokenizer reported
    _least: int = 0  # tokens that the texts of that core have at least

    def cost_of(self, input_tokens: int, output_tokens: int, calls: int = 0) -> Cost:
        """Return the most that that many tokens and calls can cost."""
        money = 0.0 if self.price is FREE else self.price.of(input_tokens, output_tokens)
        return Cost(input_tokens + output_tokens, money, calls)

    def cost_of_usage(self, usage: Usage, calls: int) -> Cost:
        """Return the cost of what a call used."""
        money = 0.0 if self.price is FREE else self.price.of_usage(usage)
        return Cost(usage.total_tokens, money, calls)

    @property
    def end(self) -> int | None:
        """The number of tokens at which the answer ends now: the limit or the reservation."""
        if self.limit is None or self.reserved is None:
            return self.reserved if self.limit is None else self.limit
        return min(self.limit, self.reserved)

    @property
    def ends_by(self) -> LimitedBy:
        """Return which limit ends the answer first."""
        if self.reserved is not None and self.end != self.limit:
            return "budget"
        return self.limited_by

    def tokens_of(self, progress: Progress) -> int:
        """Count reported tokens: as many as the core reports, or as its text has at least."""
        reported = max(0, progress.num_tokens)
        if self.prepared.is_exact and self.limit is None:
            return reported
        least = sum(map(at_least, answer_texts(progress.delta)))
        if not self.prepared.is_exact:
            return max(reported, least)
        self._reported, self._least = self._reported + reported, self._least + least
        is_plausible = self._least <= self._reported * _FORGIVEN
        return max(0, (self._reported if is_plausible else self._least) - self.num_tokens)

    def take(self, progress: Progress, num_tokens: int) -> Taken:
        """Count progress of that many tokens, as far as it is within the limits."""
        end = self.end
        room = None if end is None else end - self.num_tokens
        if room is None or num_tokens <= room:
            self._count(progress.delta, num_tokens)
            return Taken(progress.delta)
        delta = start_of_delta(progress.delta, room, self.ratio) if room > 0 else Delta()
        self._count(delta, max(0, room))
        return Taken(delta, is_over=True)

    def came(self, messages: Iterable[Message]) -> int:
        """Count the tokens that whole answers have at least."""
        least = sum(at_least(text) for message in messages for text in answer_texts(message))
        return max(self.num_tokens, least // _FORGIVEN if self.prepared.is_exact else least)

    def evidence(self, context_window: int, messages: Sequence[Message] = ()) -> Evidence:
        """Return the kernel's own counts for the call and its answers."""
        least, about = self.num_tokens, self.num_estimated
        if not self.prepared.is_exact:
            least = self.came(messages)
        if not about:  # nothing was streamed
            texts = (text for message in messages for text in answer_texts(message))
            about = sum(map(self.ratio.tokens_in, texts))
        return Evidence(
            prompt_tokens=self.prompt_tokens,
            max_prompt_tokens=self.prepared.num_tokens,
            context_window=context_window,
            output_tokens=max(least, about),
            min_output_tokens=least,
            max_output_tokens=None if self.is_external else self.limit,
            is_exact=self.prepared.is_exact,
        )

    def _count(self, delta: Delta, num_tokens: int) -> None:
        self.num_tokens += num_tokens
        about = num_tokens
        if not self.prepared.is_exact:
            about = max(about, sum(map(self.ratio.tokens_in, answer_texts(delta))))
        self.num_estimated += about
        if self.limit is not None and delta:
            self.received.append(delta)

    @property
    def num_answers(self) -> int:
        """The number of answers (choices) that the call requests."""
        return self.request.sampling.num_choices

    @property
    def own_limit(self) -> int | None:
        """The caller's limit, for all answers together; None if it set none."""
        each = self.request.sampling.max_tokens
        return None if each is None else int(each) * self.num_answers

    @property
    def limit_of_each(self) -> int | None:
        """The limit of one answer; None if neither caller nor budget sets one."""
        return None if self.limit is None else max(1, self.limit // self.num_answers)

    def keep_received(self) -> None:
        """Note that a run continues from here, so that `rewind` can return here."""
        counts = (self.num_tokens, self.num_estimated, self._reported, self._least)
        self._kept = _Received(*counts, num_deltas=len(self.received))

    def rewind(self, *, to_prompt: bool) -> None:
        """Forget what arrived since the run started, or all that arrived."""
        kept = _Received() if to_prompt or self._kept is None else self._kept
        self.num_tokens, self.num_estimated = kept.num_tokens, kept.num_estimated
        self._reported, self._least = kept.reported, kept.least
        del self.received[kept.num_deltas :]
        if to_prompt:
            self._kept = None

    def go_on_from(self, snapshot: Snapshot) -> None:
        """Add the tokens that an earlier kernel counted for the call."""
        self.num_tokens = self.num_estimated = self._reported = len(snapshot.output_ids)
        if snapshot.text:
            self.received.append(Delta(snapshot.text))


_HIDDEN_PROMPT: Final = 16_384  # tokens that a backend may add to a prompt: templates, rules
_HIDDEN_OUTPUT: Final = 65_536  # tokens of reasoning that a backend may keep hidden


@dataclass(frozen=True, slots=True)
class Evidence:
    """The kernel's own figures for one call."""

    prompt_tokens: int  # counted or estimated
    max_prompt_tokens: int  # an upper bound from the texts
    context_window: int
    output_tokens: int  # counted or estimated
    min_output_tokens: int  # tokens that have certainly arrived
    max_output_tokens: int | None = None  # limit of the answer; None: no limit
    is_exact: bool = False  # whether the counts are those of the model's own tokenizer

    def usage(self) -> Usage:
        """The kernel's own count as a usage."""
        is_estimated = not self.is_exact
        return Usage(self.prompt_tokens, self.output_tokens, is_estimated=is_estimated)


@dataclass(frozen=True, slots=True)
class Judged:
    """The usage to charge, and why it differs from the reported one; "" if it does not."""

    usage: Usage
    fault: str = ""


def check_usage(claimed: Usage, evidence: Evidence) -> Judged:
    """Check a reported usage, and replace each impossible figure by the kernel's own."""
    faults: dict[str, str] = {}
    if fault := _fault_of_prompt(claimed.input_tokens, evidence):
        faults["input_tokens"] = fault
        claimed = replace(
            claimed, input_tokens=evidence.prompt_tokens, is_estimated=not evidence.is_exact
        )
    if fault := _fault_of_output(claimed.output_tokens, evidence):
        faults["output_tokens"] = fault
        claimed = replace(
            claimed, output_tokens=evidence.output_tokens, is_estimated=not evidence.is_exact
        )
    for key, fault in _faults_of_parts(claimed):
        faults[key] = fault
        none: dict[str, Any] = {key: 0}
        claimed = replace(claimed, **none)
    if set(map(type, _counts_of(claimed))) != {int}:
        claimed = replace(claimed, **_whole(claimed))
    if not faults:
        return Judged(claimed)
    return Judged(claimed, "; ".join(f"{key}: {fault}" for key, fault in faults.items()))


def _count_of(claim: object) -> int | None:
    """Return a reported count; None if it is not one."""
    is_plain = type(claim) is int and 0 <= claim <= MOST_TOKENS  # nearly always
    return cast(int, claim) if is_plain else whole_number(claim)


def _fault_of_prompt(claim: object, known: Evidence) -> str:
    number = _count_of(claim)
    if number is None:
        return f"claimed {claim!r:.40}, which is not a count"
    most = min(4 * known.max_prompt_tokens + _HIDDEN_PROMPT, max(known.context_window, 1))
    if number > max(most, known.prompt_tokens):
        return f"claimed {number:,}, and the prompt has about {known.prompt_tokens:,}"
    if number == 0 and known.prompt_tokens:
        return f"claimed none, and the prompt has about {known.prompt_tokens:,}"
    return ""


def _fault_of_output(claim: object, known: Evidence) -> str:
    number = _count_of(claim)
    if number is None:
        return f"claimed {claim!r:.40}, which is not a count"
    if number < known.min_output_tokens:
        return f"claimed {number:,}, and {known.min_output_tokens:,} or more arrived"
    limit = known.max_output_tokens
    if limit is not None and number > limit:
        return f"claimed {number:,}, and {limit:,} were allowed"
    if limit is None and number > 16 * known.output_tokens + _HIDDEN_OUTPUT:
        return f"claimed {number:,}, and about {known.output_tokens:,} arrived"
    return ""


#: The figures that are part of another figure.
_PARTS: Final = {
    "cached_tokens": "input_tokens",
    "cache_write_tokens": "input_tokens",
    "audio_input_tokens": "input_tokens",
    "reasoning_tokens": "output_tokens",
    "audio_output_tokens": "output_tokens",
}
_COUNTS: Final = ("input_tokens", "output_tokens", *_PARTS)
_counts_of: Final = attrgetter(*_COUNTS)


def _faults_of_parts(claimed: Usage) -> Iterator[tuple[str, str]]:
    for key, of in _PARTS.items():
        if (claim := getattr(claimed, key)) == 0:
            continue
        whole = getattr(claimed, of)
        number = whole_number(claim)
        if number is None:
            yield key, f"claimed {claim!r:.40}, which is not a count"
        elif number > whole:
            yield key, f"claimed {number:,} of {whole:,} {of}"


def _whole(usage: Usage) -> dict[str, Any]:
    """Return the counts as integers: some servers send 12.0."""
    return {key: int(getattr(usage, key)) for key in _COUNTS}


def start_of_delta(delta: Delta, num_tokens: int, ratio: TokenRatio) -> Delta:
    """Return the start of a delta, up to that many tokens."""
    return replace(delta, **_changes(delta, "text", num_tokens, ratio))


def start_of_message(message: Message, num_tokens: int, ratio: TokenRatio) -> Message:
    """Return the start of an assistant's message, up to that many tokens."""
    return replace(message, **_changes(message, "content", num_tokens, ratio))


def _changes(
    answer: Delta | Message, text_key: str, num_tokens: int, ratio: TokenRatio
) -> dict[str, Any]:
    """Return the fields to shorten, in the order in which a model writes them.

    That is reasoning, text, refusal, tool calls.
    """
    left = num_tokens
    changes: dict[str, Any] = {}
    for key in ("reasoning", text_key, "refusal"):
        if text := getattr(answer, key, None):
            kept = ratio.start_of(text, left) if left > 0 else ""
            left -= ratio.tokens_in(kept)
            changes |= {} if kept == text else {key: kept}
    if changes and answer.thinking:
        changes["thinking"] = ()  # its signatures cover the uncut text
    if answer.tool_calls:
        changes["tool_calls"] = tuple(_first_calls(answer.tool_calls, left, ratio))
    return changes


def _first_calls(
    calls: tuple[ToolCall, ...] | tuple[ToolCallDelta, ...], left: int, ratio: TokenRatio
) -> list[Any]:
    """Yield the tool calls that start within the limit, the last one cut off at the limit."""
    kept = []
    for call in calls:
        if left <= 0:
            break
        left -= ratio.tokens_in(call.name or "")
        arguments = ratio.start_of(call.arguments, left) if left > 0 else ""
        left -= ratio.tokens_in(arguments)
        kept.append(replace(call, arguments=arguments))
    return kept


# --- expected lengths of answers ------------------------------------------------------------------
# Learned from earlier answers; until there are enough, taken from the configuration.

EXPECTED_ANSWER_TOKENS: Final = 512
_KEPT: Final = 50  # latest answers of an agent, and of a model, that are used
_ENOUGH: Final = 3  # answers needed for an estimate
_MOST_AGENTS: Final = 10_000  # agents with their own estimate
_LEAST: Final = 16  # tokens; the shortest expected answer


_FIRST_RUN_S: Final = 1.0  # assumed duration of a run, until one has ended
_LATEST_RUNS: Final = 32  # number of runs that the mean covers


class AnswerSizes:
    """The lengths of the latest answers."""

    def __init__(self) -> None:
        self._sizes: deque[int] = deque(maxlen=_KEPT)

    def add(self, num_tokens: int) -> None:
        """Add an answer's length."""
        self._sizes.append(num_tokens)

    def percentile_90(self) -> int | None:
        """Return the length that nine of ten answers did not exceed; None for too few answers."""
        if len(self._sizes) < _ENOUGH:
            return None
        ranked = sorted(self._sizes)
        return ranked[(len(ranked) * 9) // 10]


class Estimates:
    """Estimates of answers: the 90th percentile of an agent's answers, or of a model's."""

    def __init__(self, expected_answer_tokens: int = EXPECTED_ANSWER_TOKENS) -> None:
        self._default = expected_answer_tokens
        self.run_s = _FIRST_RUN_S  # mean duration of the latest runs
        self._num_runs = 0
        self._agents: OrderedDict[int, AnswerSizes] = OrderedDict()
        self._models: dict[str, AnswerSizes] = {}
        self._ratios: dict[str, TokenRatio] = {}

    def learn_run(self, seconds: float) -> None:
        """Record the duration of a completed run."""
        if seconds > 0:
            self._num_runs += 1
            self.run_s += (seconds - self.run_s) / min(self._num_runs, _LATEST_RUNS)

    def answer_tokens(self, pid: int, model: str, *, at_most_unknown: int | None = None) -> int:
        """Estimate the tokens of an agent's next answer.

        While nothing is learned, the estimate is the default, or `at_most_unknown` if that is less.
        """
        for sizes in (self._agents.get(pid), self._models.get(model)):
            if sizes is not None and (size := sizes.percentile_90()) is not None:
                return max(_LEAST, size)
        return self._default if at_most_unknown is None else min(self._default, at_most_unknown)

    def ratio(self, model: str) -> TokenRatio:
        """Return the bytes a token of a model; one estimate for all agents."""
        ratio = self._ratios.get(model)
        if ratio is None:
            ratio = self._ratios[model] = TokenRatio()
        return ratio

    def learn(self, pid: int, model: str, num_tokens: int) -> None:
        """Record the tokens of a model's answer to an agent."""
        if pid in self._agents:
            self._agents.move_to_end(pid)
        else:
            self._agents[pid] = AnswerSizes()
            if len(self._agents) > _MOST_AGENTS:
                self._agents.popitem(last=False)
        if model not in self._models:
            self._models[model] = AnswerSizes()
        self._agents[pid].add(num_tokens)
        self._models[model].add(num_tokens)
