"""The in-process LLM core: any causal model that transformers loads, on torch.

    core = TransformersCore("models/tiny", models=("tiny",))
    core = TransformersCore("Qwen/Qwen2.5-0.5B-Instruct", dtype="bfloat16", slots=16)

It reads two keys of a request's `extra`, with the names that vLLM uses: `ignore_eos`, to measure
answers of a known length, and `chat_template_kwargs`.

All agents share one batch. A sequence can leave the batch at any token, be moved to
another memory tier, and come back later; its answer does not change.
Three kinds of threads do the work: the kernel's loop calls the methods here, which
return at once; the step loop runs the model; workers tokenize, load and read from disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import torch

from aios_core.core import Capabilities, CoreLoad, Failed, Prepared, ReportSink, Run
from aios_core.cores.transformers.attention import PackedBatch
from aios_core.cores.transformers.engine import PackedEngine
from aios_core.cores.transformers.generation import GenerationStarter, release_images
from aios_core.cores.transformers.grammar import GrammarCompiler
from aios_core.cores.transformers.kv import KVAccount, KVLayout, KVSequenceImage
from aios_core.cores.transformers.limits import require_supported
from aios_core.cores.transformers.loading import LoadedModel, free_memory, load_model
from aios_core.cores.transformers.loop import StepLoop
from aios_core.cores.transformers.prompt import PromptEncoder
from aios_core.cores.transformers.sampling import Penalties
from aios_core.cores.transformers.selfcheck import CheckedModel, check_model, measure_prefill
from aios_core.cores.transformers.unpacked import UnpackedEngine
from aios_core.errors import CoreError, SnapshotError
from aios_core.shielding import finish_shielded
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_KV_SHARE: Final = 0.5  # of the free memory, if no capacity is given


@dataclass(frozen=True, slots=True)
class _Parts:
    """A loaded model and what belongs to it. Kept when a step loop fails."""

    loaded: LoadedModel
    checked: CheckedModel
    prompt_encoder: PromptEncoder
    grammars: GrammarCompiler
    account: KVAccount
    prefill_rate: float | None
    kv_capacity: int | None


class TransformersCore:
    """A core that runs a causal language model in this process.

    Args:
        model: a folder, or a name on the hub.
        name: unique in a pool; None: the last part of `model`.
        models: the names that requests use; the first is the default.
        slots: sequences in one batch.
        kv_tokens: tokens of KV memory that the scheduler may fill; None: half of the free memory.
        max_step_tokens: tokens of one forward pass; a larger value gives more throughput, a
            smaller one a lower latency.
        default_max_tokens: tokens of an answer, if its request sets no limit.
        dtype: such as "bfloat16"; None: as in the model's files.
        device: such as "cuda:1"; None: a GPU if there is one.
        num_threads: of torch; None: torch's own setting.
        context_window: tokens; None: the model's own limit.
        keep_contexts: keep each finished context warm for the agent's next call.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        name: str | None = None,
        models: Sequence[str] = (),
        slots: int = 32,
        kv_tokens: int | None = None,
        max_step_tokens: int = 512,
        default_max_tokens: int = 512,
        dtype: str | None = None,
        device: str | None = None,
        num_threads: int | None = None,
        context_window: int | None = None,
        keep_contexts: bool = False,
    ) -> None:
        self._source = model
        self._name = name or Path(model).name
        self._models = tuple(models) or (self._name,)
        self._slots = slots
        self._kv_tokens = kv_tokens
        self._max_step_tokens = max_step_tokens
        self._default_max_tokens = default_max_tokens
        self._dtype = dtype
        self._device = device
        self._num_threads = num_threads
        self._context_window = context_window
        self._keep_contexts = keep_contexts
        self._workers: ThreadPoolExecutor | None = None
        self._parts: _Parts | None = None
        self._loop: StepLoop | None = None
        self._sink: ReportSink | None = None

    def __repr__(self) -> str:
        load = self.load()
        state = f"{load.num_running}/{load.slots} running" if load.is_up else "down"
        return f"<TransformersCore {self._name!r}: {state}>"

    @property
    def name(self) -> str:
        return self._name

    @property
    def models(self) -> Sequence[str]:
        return self._models

    @property
    def capabilities(self) -> Capabilities:
        parts = self._loaded_parts()
        is_packed = parts.checked.layout is not None
        return Capabilities(
            context_window=parts.loaded.context_window,
            preemptible=True,
            exact_resume=True,
            exact_recompute=parts.loaded.model.dtype == torch.float32,
            kv_snapshots=is_packed,
            tools=parts.prompt_encoder.takes_tools,
            warm_contexts=is_packed,
            notes=tuple(_notes(parts)),
        )

    @property
    def kv_layout(self) -> KVLayout | None:
        """The shapes of the model's KV cache; None if no KV is kept between runs."""
        return self._loaded_parts().checked.layout

    @property
    def fingerprint(self) -> str:
        """A hash of the weights and the number format; snapshots carry it."""
        return self._loaded_parts().loaded.fingerprint

    def can_continue(self, snapshot: Snapshot) -> bool:
        """Return whether a snapshot is of this core's weights and number format."""
        return snapshot.model == self.fingerprint

    def open_image(self, path: Path) -> KVSequenceImage:
        """Open the KV image that an earlier process wrote to `path`, for a snapshot's `kv`.

        Raises `SnapshotError` if it is missing, damaged or of another model.
        """
        layout = self.kv_layout
        if layout is None:
            raise SnapshotError(f"core {self._name!r} keeps no KV images")
        return KVSequenceImage.open(path, layout)

    async def start(self, sink: ReportSink) -> None:
        """Load the model, check it and start the step loop. Raises `ModelLoadError`."""
        await self._shut_loop()
        self._sink = sink
        if self._workers is None:
            self._workers = ThreadPoolExecutor(
                2, thread_name_prefix=f"aios-core-{self._name}-worker"
            )
        workers = self._workers
        try:
            if self._parts is None:
                self._parts = await _call(workers, self._load)
        except BaseException:
            await finish_shielded(self.close())
            raise
        self._loop = self._make_loop(self._parts, sink, workers)

    def prepare(self, request: LLMGenerate) -> Awaitable[Prepared]:
        """Check a request and tokenize its prompt, on a worker."""
        return self._prepared(request)

    def run(self, run: Run) -> None:
        if self._loop is not None and self._loop.submit(run):
            return
        release_images(run)
        if self._sink is not None:
            error = CoreError(self._name, "is not up", is_retryable=True)
            self._sink([Failed(run.id, error)])

    def preempt(self, run_id: int) -> None:
        if self._loop is not None:
            self._loop.preempt(run_id)

    def cancel(self, run_id: int) -> None:
        if self._loop is not None:
            self._loop.cancel(run_id)

    def load(self) -> CoreLoad:
        loop, parts = self._loop, self._parts
        return CoreLoad(
            slots=self._slots,
            num_running=loop.num_running if loop else 0,
            kv_tokens=parts.account.num_tokens if parts else 0,
            kv_capacity=parts.kv_capacity if parts else self._kv_tokens,
            prefill_rate=loop.prefill_rate if loop else None,
            is_up=loop is not None and loop.is_up,
        )

    async def close(self) -> None:
        """Stop all runs, end all threads, free the model. Idempotent."""
        await self._shut_loop()
        workers, self._workers = self._workers, None
        self._parts = None
        if workers is not None:
            await asyncio.to_thread(workers.shutdown)

    # --- internals ----------------------------------------------------------------------------

    async def _prepared(self, request: LLMGenerate) -> Prepared:
        parts, workers = self._loaded_parts(), self._workers
        if workers is None:
            raise CoreError(self._name, "is closed", is_retryable=True)
        return await _call(workers, self._measure, parts, request)

    def _measure(self, parts: _Parts, request: LLMGenerate) -> Prepared:
        """Find everything that is wrong with a request before it runs. Called on a worker."""
        require_supported(self._name, request)
        Penalties.of(request.sampling)  # refuses a bias for something that is not a token
        parts.grammars.describe(request)
        ids = parts.prompt_encoder.encode(request)
        room = parts.loaded.context_window - len(ids)
        wanted = request.sampling.max_tokens or self._default_max_tokens
        return Prepared(len(ids), min(wanted, room), ids)

    def _load(self) -> _Parts:
        """Load the model, check the packed engine against it, measure it. Called on a worker."""
        if self._num_threads is not None:
            torch.set_num_threads(self._num_threads)
        loaded = load_model(
            self._source,
            dtype=self._dtype,
            device=self._device,
            context_window=self._context_window,
        )
        checked = check_model(loaded)
        if checked.layout is None:
            logger.warning(
                "core %r runs each sequence alone, since packed batches are unsuitable for %s: %s",
                self._name,
                loaded.model.config.model_type,
                checked.problem,
            )
        account = KVAccount()
        rate = None
        if checked.layout is not None:
            engine = PackedEngine(
                loaded.model, checked.layout, account, batch_type=checked.batch_type
            )
            rate = measure_prefill(engine, loaded)
        return _Parts(
            loaded=loaded,
            checked=checked,
            prompt_encoder=PromptEncoder(loaded),
            grammars=GrammarCompiler(loaded.tokenizer, loaded.vocab_size, loaded.eos_ids),
            account=account,
            prefill_rate=rate,
            kv_capacity=self._kv_tokens or _capacity(loaded, checked.layout),
        )

    def _make_loop(self, parts: _Parts, sink: ReportSink, workers: ThreadPoolExecutor) -> StepLoop:
        loaded, layout = parts.loaded, parts.checked.layout
        engine: PackedEngine | UnpackedEngine
        if layout is None:
            engine = UnpackedEngine(loaded.model)
        else:
            engine = PackedEngine(
                loaded.model,
                layout,
                parts.account,
                max_step_tokens=self._max_step_tokens,
                batch_type=parts.checked.batch_type,
            )
        factory = GenerationStarter(
            fingerprint=loaded.fingerprint,
            layout=layout,
            account=parts.account,
            grammars=parts.grammars,
            decode=parts.prompt_encoder.decoder(),
            hidden_ids=parts.prompt_encoder.hidden_ids(),
        )
        return StepLoop(
            self._name,
            engine,
            factory,
            sink,
            workers=workers,
            models=self._models,
            eos_ids=loaded.eos_ids,
            keep_contexts=self._keep_contexts and layout is not None,
            num_threads=self._num_threads,
            prefill_rate=parts.prefill_rate,
        )

    async def _shut_loop(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            await asyncio.to_thread(loop.close)

    def _loaded_parts(self) -> _Parts:
        if self._parts is None:
            raise CoreError(self._name, "is not started", is_retryable=True)
        return self._parts


async def _call(workers: ThreadPoolExecutor, function: Callable[..., _T], *args: Any) -> _T:
    return await asyncio.get_running_loop().run_in_executor(workers, function, *args)


def _capacity(loaded: LoadedModel, layout: KVLayout | None) -> int | None:
    """Return how many tokens of KV fit into a share of the memory that is free now."""
    free = free_memory(loaded.device)
    if layout is None or free is None:
        return None
    return int(free * _KV_SHARE) // layout.bytes_per_token


def _notes(parts: _Parts) -> list[str]:
    notes: list[str] = []
    if parts.checked.layout is None:
        notes.append(
            "runs each sequence alone, and computes a resumed one again, since packed batches are "
            f"unsuitable for {parts.loaded.model.config.model_type}: {parts.checked.problem}"
        )
    elif parts.checked.batch_type is not PackedBatch:
        notes.append("a resume from text alone may round differently; one with KV does not")
    if not parts.prompt_encoder.has_template:
        notes.append("the tokenizer has no chat template; a plain one is used")
    if not parts.prompt_encoder.takes_tools:
        notes.append("the chat template offers no tools in the Hermes format")
    return notes
