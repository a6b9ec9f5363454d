"""Runs as the step loop advances them: start, resume, accept tokens, suspend."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Protocol

from aios_core.core import Run
from aios_core.cores.transformers.grammar import Grammar, GrammarCompiler
from aios_core.cores.transformers.kv import DeviceKV, KVAccount, KVLayout, KVSequenceImage
from aios_core.cores.transformers.sampling import Sampler
from aios_core.cores.transformers.sequence import Sequence
from aios_core.cores.transformers.text import Answer, Decode, Detokenizer
from aios_core.errors import SnapshotError
from aios_core.messages import Completion, Delta, FinishReason, Usage
from aios_core.snapshot import KVImage, Snapshot, Tier
from aios_core.syscalls import LLMGenerate

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Generation:
    """A run with the state that its next token depends on."""

    run: Run
    sequence: Sequence
    answer: Answer
    grammar: Grammar | None
    num_cached: int  # tokens of the prompt that a warm context had computed already
    num_reported: int = 0  # tokens of the answer that the kernel knows of

    def __repr__(self) -> str:
        return f"<Generation of run {self.run.id}: {self.sequence!r}>"

    @property
    def usage(self) -> Usage:
        return Usage(self.sequence.num_prompt, self.sequence.num_output, self.num_cached)

    def accept(self, token: int, eos_ids: SequenceOf[int]) -> tuple[Delta, FinishReason | None]:
        """Append a chosen token; return the delta that it adds, and why the answer ends, if so."""
        is_end = token in eos_ids and not self.run.request.extra.get("ignore_eos")
        delta = Delta() if is_end else self.answer.push(token)
        if self.grammar is not None:
            self.grammar.accept(token)
        reason = self._reason_to_finish(is_end)
        if reason is None:
            return delta, None
        rest = self.answer.finish()
        delta = Delta(delta.text + rest.text, delta.tool_calls + rest.tool_calls)
        if reason is FinishReason.STOP and self.answer.num_tool_calls:
            reason = FinishReason.TOOL_CALLS
        return delta, reason

    def completion(self, reason: FinishReason, model: str) -> Completion:
        return Completion(self.answer.message(), reason, self.usage, model)

    def _reason_to_finish(self, is_end: bool) -> FinishReason | None:
        if is_end or self.answer.is_stopped or (self.grammar is not None and self.grammar.is_done):
            return FinishReason.STOP
        if self.answer.num_tool_calls and self.run.request.parallel_tool_calls is False:
            return FinishReason.STOP
        if self.sequence.num_output >= self.run.prepared.max_tokens:
            return FinishReason.LENGTH
        return None


class GenerationFactory(Protocol):
    """The contract of what turns runs into generations, and generations into snapshots."""

    def may_block(self, run: Run) -> bool:
        """Return whether `begin` may block for this run."""

    def begin(self, run: Run) -> Generation:
        """Build the generation of a run, ready for its next step.

        Raises `KernelError`; the KV images of the run are released in this case.
        """

    def suspend(self, generation: Generation, *, keep_companion: bool) -> Snapshot:
        """Turn a generation into a snapshot, which takes over its memory without a copy.

        With `keep_companion` the generation stays with the image, so that resuming in this
        process need not parse the answer again.
        """

    def text_snapshot(self, generation: Generation) -> Snapshot | None:
        """Return a snapshot of the reported tokens, without KV memory; None if there are none."""


@dataclass(frozen=True, slots=True)
class GenerationStarter:
    """Starts runs from their prompt, from a snapshot, or on a warm context."""

    fingerprint: str
    layout: KVLayout | None  # None: the engine cannot keep KV between runs
    account: KVAccount
    grammars: GrammarCompiler
    decode: Decode
    hidden_ids: frozenset[int]

    def may_block(self, run: Run) -> bool:
        images = [snapshot.kv for snapshot in (run.snapshot, run.warm) if snapshot is not None]
        if any(image is not None and image.tier is not Tier.DEVICE for image in images):
            return True
        return run.request.response_format is not None or run.request.chosen_tool not in _FREE

    def begin(self, run: Run) -> Generation:
        try:
            if run.snapshot is not None:
                return self._resume(run, run.snapshot)
            return self._start(run)
        except BaseException:
            release_images(run)
            raise

    def suspend(self, generation: Generation, *, keep_companion: bool) -> Snapshot:
        sequence = generation.sequence
        image = self._image_of(sequence)
        if image is not None and keep_companion:
            image.companion = generation
        return Snapshot(
            model=self.fingerprint,
            prompt_ids=tuple(sequence.ids[: sequence.num_prompt]),
            output_ids=tuple(sequence.ids[sequence.num_prompt :]),
            sampler=sequence.sampler.encode(),
            kv=image,
        )

    def text_snapshot(self, generation: Generation) -> Snapshot | None:
        """Return a snapshot of the reported tokens, without KV memory; None if there are none."""
        sequence, num_reported = generation.sequence, generation.num_reported
        if not num_reported:
            return None
        return Snapshot(
            model=self.fingerprint,
            prompt_ids=tuple(sequence.ids[: sequence.num_prompt]),
            output_ids=tuple(sequence.ids[sequence.num_prompt :][:num_reported]),
            sampler=sequence.sampler.encode(),
        )

    def _start(self, run: Run) -> Generation:
        generation = self._build(run, run.prepared.prompt_ids, (), None)
        if run.warm is not None:
            generation.num_cached = self._reuse(generation.sequence, run.warm)
        return generation

    def _resume(self, run: Run, snapshot: Snapshot) -> Generation:
        if snapshot.model != self.fingerprint:
            raise SnapshotError("the snapshot belongs to another model or number format")
        if run.warm is not None and run.warm.kv is not None:
            run.warm.kv.release()
        companion = _companion(run, snapshot)
        if companion is not None:
            companion.run = run
            generation = companion
        else:
            prompt = snapshot.prompt_ids or run.prepared.prompt_ids
            generation = self._build(run, prompt, snapshot.output_ids, snapshot.sampler)
        generation.sequence.memory = self._take(snapshot.kv, generation.sequence)
        return generation

    def _build(
        self, run: Run, prompt: SequenceOf[int], output: SequenceOf[int], sampler: bytes | None
    ) -> Generation:
        request = run.request
        sequence = Sequence.of(prompt, output, Sampler.of(request.sampling, sampler))
        rules = self.grammars.describe(request)
        grammar = None if rules is None else self.grammars.compile(rules, output)
        sequence.constraint = grammar
        answer = Answer(
            Detokenizer(self.decode, self.hidden_ids),
            request.sampling.stop,
            _answer_key(prompt) if _may_call(request) else None,
        )
        for token in output:
            answer.push(token)
        return Generation(run, sequence, answer, grammar, 0, num_reported=len(output))

    def _reuse(self, sequence: Sequence, warm: Snapshot) -> int:
        """Take over a warm context's memory up to the common prefix; return its tokens."""
        common = 0
        if warm.model == self.fingerprint:
            common = len_common((*warm.prompt_ids, *warm.output_ids), sequence.ids)
        # The last token is always computed: only its logits give the next one.
        common = min(common, len(sequence.ids) - 1)
        if common < 1:
            if warm.kv is not None:
                warm.kv.release()
            return 0
        memory = self._take(warm.kv, sequence, num_tokens=common)
        sequence.memory = memory
        return 0 if memory is None else memory.length

    def _take(
        self, image: KVImage | None, sequence: Sequence, num_tokens: int | None = None
    ) -> DeviceKV | None:
        """Take an image's memory; None if it is lost, which costs time but not the answer."""
        if image is None:
            return None
        if self.layout is None or not isinstance(image, KVSequenceImage):
            logger.warning("a KV image of another core is dropped; its tokens are computed again")
            image.release()
            return None
        try:
            memory = image.take(self.layout, self.account)
        except SnapshotError as exc:
            logger.warning("a KV image is lost, its tokens are computed again: %s", exc)
            return None
        memory.trim(len(sequence.ids) - 1 if num_tokens is None else num_tokens)
        return memory

    def _image_of(self, sequence: Sequence) -> KVSequenceImage | None:
        memory, sequence.memory = sequence.memory, None
        if isinstance(memory, DeviceKV) and memory.length:
            return KVSequenceImage.of(memory)
        if memory is not None:
            memory.release()
        return None


_FREE = ("auto", "none")  # tool choices that need no grammar


def release_images(run: Run) -> None:
    """Release the KV images that a run would have taken over."""
    for snapshot in (run.snapshot, run.warm):
        if snapshot is not None and snapshot.kv is not None:
            snapshot.kv.release()


def len_common(first: SequenceOf[int], second: SequenceOf[int]) -> int:
    """Return the length of the longest common prefix."""
    for i, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return i
    return min(len(first), len(second))


def _companion(run: Run, snapshot: Snapshot) -> Generation | None:
    """Return the suspended generation, if it is still with the image and matches the snapshot."""
    kept = snapshot.kv.companion if isinstance(snapshot.kv, KVSequenceImage) else None
    if not isinstance(kept, Generation) or kept.run.request is not run.request:
        return None
    return kept if kept.sequence.num_output == len(snapshot.output_ids) else None


def _may_call(request: LLMGenerate) -> bool:
    return bool(request.tools) and request.chosen_tool != "none"


def _answer_key(prompt: SequenceOf[int]) -> str:
    """Name an answer by its prompt, so that a resumed answer keeps its tool call ids."""
    return hashlib.blake2b(repr(tuple(prompt)).encode(), digest_size=8).hexdigest()
