"""The packed engine: one forward pass advances any set of sequences by one token.

    engine.step([a, b, c])    # c may be new, a may have been suspended for an hour

The caller chooses the sequences of every step; time slices, priorities and suspension
need no other mechanism. A step first computes one token for each decoding sequence,
then prompts with the rest of its token budget. Prompts are cut into chunks that start
at multiples of the chunk size, so that the cuts do not depend on the other sequences
(`attention` explains why that matters).

Promise: when a step fails, every sequence is as it was before the step. When memory
runs out, the sequence that needed too much is reported and the others advance.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import torch
from torch import Tensor
from transformers import PreTrainedModel

from aios_core.cores.transformers.attention import AttentionBinding, PackedBatch, Span
from aios_core.cores.transformers.kv import DeviceKV, KVAccount, KVLayout
from aios_core.cores.transformers.sequence import Sequence, StepResult


class PackedEngine:
    """An engine for a model with `attention.packed_attention` installed."""

    def __init__(
        self,
        model: PreTrainedModel,
        layout: KVLayout,
        account: KVAccount,
        *,
        max_step_tokens: int = 512,
        chunk_tokens: int = 256,
        batch_type: type[PackedBatch] = PackedBatch,
    ) -> None:
        self.layout = layout
        self.account = account
        self._model = model
        self._batch_type = batch_type
        self._binding = AttentionBinding(model)
        self._max_step_tokens = max_step_tokens
        self._chunk_tokens = min(chunk_tokens, max_step_tokens)

    @torch.inference_mode()
    def step(self, sequences: SequenceOf[Sequence]) -> StepResult:
        """Advance sequences in one forward pass, each by a token or a part of its prompt."""
        result = StepResult()
        work: list[tuple[Sequence, list[Span]]] = []
        for sequence, spans in self._plan(sequences):
            try:
                memory_of(sequence, self).reserve(spans[-1].end)
            except (RuntimeError, MemoryError) as exc:
                if not is_out_of_memory(exc):
                    raise
                result.out_of_memory.append((sequence, str(exc)))
            else:
                work.append((sequence, spans))
        self._advance(work, result)
        return result

    @torch.inference_mode()
    def logits(self, sequences: SequenceOf[Sequence]) -> Tensor:
        """Compute all pending tokens; return logits [sequences, vocabulary], choose no token."""
        work = [(one, self._chunks(one, len(one.ids), is_first=True)) for one in sequences]
        for sequence, _ in work:
            memory_of(sequence, self).reserve(len(sequence.ids))
        logits = self.forward(work)
        for sequence, spans in work:
            memory_of(sequence, self).length = spans[-1].end
        return logits

    def forward(self, work: SequenceOf[tuple[Sequence, list[Span]]]) -> Tensor:
        """Run the model once; return logits [sequences, vocabulary] after each one's last token."""
        ids: list[int] = []
        positions: list[int] = []
        last: list[int] = []
        for sequence, spans in work:
            start, end = spans[0].past, spans[-1].end
            ids += sequence.ids[start:end]
            positions += range(start, end)
            last.append(len(ids) - 1)
        device = self.layout.device
        every = [span for _, spans in work for span in spans]
        self._binding.batch = self._batch_type(self.layout, every)
        try:
            out = self._model(
                input_ids=torch.tensor([ids], device=device),
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
                logits_to_keep=torch.tensor(last, device=device),
            )
        finally:
            self._binding.batch = None
        logits: Tensor = out.logits[0]
        return logits

    def _advance(self, work: SequenceOf[tuple[Sequence, list[Span]]], result: StepResult) -> None:
        if not work:
            return
        try:
            logits = self.forward(work)
        except (RuntimeError, MemoryError) as exc:
            if not is_out_of_memory(exc):
                raise
            if len(work) == 1:
                result.out_of_memory.append((work[0][0], str(exc)))
                return
            for one in work:  # too much together: find the sequence that is too much alone
                self._advance([one], result)
            return
        self._choose(work, logits, result)

    def _choose(
        self,
        work: SequenceOf[tuple[Sequence, list[Span]]],
        logits: Tensor,
        result: StepResult,
    ) -> None:
        best: list[int] | None = None
        for row, (sequence, spans) in enumerate(work):
            memory_of(sequence, self).length = spans[-1].end
            result.num_prefilled += spans[-1].end - spans[0].past - 1
            if sequence.num_pending:
                continue
            if sequence.constraint is None and sequence.sampler.is_argmax:
                best = best or logits.argmax(-1).tolist()
                token = best[row]
            else:
                token = sequence.choose(logits[row])
            sequence.ids.append(token)
            result.tokens.append((sequence, token))

    def _plan(self, sequences: SequenceOf[Sequence]) -> list[tuple[Sequence, list[Span]]]:
        """Choose the tokens that each sequence computes in this step; never an empty plan."""
        decoding = [one for one in sequences if one.num_pending == 1]
        filling = [one for one in sequences if one.num_pending > 1]
        plan = [(one, [Span(memory_of(one, self), one.num_computed, 1)]) for one in decoding]
        # Decoding goes first: one long prompt must not delay the answers of all others.
        left = self._max_step_tokens - len(plan)
        for sequence in filling:
            spans = self._chunks(sequence, left, is_first=not plan)
            if not spans:
                break
            plan.append((sequence, spans))
            left -= sum(span.count for span in spans)
        return plan

    def _chunks(self, sequence: Sequence, budget: int, *, is_first: bool) -> list[Span]:
        """Cut a sequence's next chunks of at most `budget` tokens; always one if it is first.

        A chunk ends at a multiple of the chunk size, at the end of the prompt, or
        at the end of the sequence.
        """
        memory, start, size = memory_of(sequence, self), sequence.num_computed, self._chunk_tokens
        spans: list[Span] = []
        while start < len(sequence.ids):
            end = min(len(sequence.ids), (start // size + 1) * size)
            is_replay = start >= sequence.num_prompt
            if not is_replay:
                end = min(end, sequence.num_prompt)
            if end - start > budget and (spans or not is_first):
                break
            spans.append(Span(memory, start, end - start, is_replay))
            budget -= end - start
            start = end
        return spans


def memory_of(sequence: Sequence, engine: PackedEngine) -> DeviceKV:
    """Return the device memory of a sequence, allocating it if it has none yet."""
    if sequence.memory is None:
        sequence.memory = DeviceKV(engine.layout, engine.account)
    if not isinstance(sequence.memory, DeviceKV):
        raise TypeError(f"{sequence!r} holds the memory of another engine")
    return sequence.memory


def is_out_of_memory(exc: BaseException) -> bool:
    """Return whether an allocation of torch or Python failed."""
    # torch's CPU allocator raises a plain RuntimeError; only its message shows the reason.
    return isinstance(exc, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(
        exc
    )
