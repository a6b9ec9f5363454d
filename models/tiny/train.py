"""Train the tiny model: `python -m models.tiny.train --minutes 60 --out out/tiny`.

Writes an ordinary checkpoint (safetensors, tokenizer.json, chat template) that
transformers, vLLM and `aios` load as it is, and `state.pt`, from which
`--resume` continues it. Promises: dialogues and batches depend on the seed alone; with
`--steps` instead of `--minutes` the schedule does too, and a stopped and resumed
run ends with the weights of an uninterrupted one. Stops at SIGINT and SIGTERM
after the step at hand, with everything saved.

Muon for the matrices (Jordan et al., 2024), AdamW for the rest. Several
`--workers` are processes of one thread each that average their gradients: on a
CPU with other things to do, faster than threads that wait for one another.
`--fast` compiles the loss and computes it in bfloat16; the weights stay float32.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from models.tiny.batches import Batch, Source, batches
from models.tiny.evaluate import quick_check
from models.tiny.loss import loss_of
from models.tiny.muon import Muon
from models.tiny.settings import STATE, Settings, alone_in, asked, stages_of
from models.tiny.shared_embeddings import Pieces
from models.tiny.tokenizer import PAD, WINDOW, build_tokenizer, wrap

WARM_UP: Final = 40  # steps
DECAY_FROM: Final = 0.45  # of the run; linear to FLOOR
FLOOR: Final = 0.02
MOMENTUM: Final = 0.95
STORED: Final = torch.bfloat16  # in the checkpoint, to be computed with as float32; loses nothing
TIED: Final = ("lm_head.weight",)  # the embeddings again
CHECK_SAMPLE: Final = 10  # dialogues of each case, when a run checks itself
_PLACE: Final = ("step", "num_tokens", "num_learnt", "shard", "index", "elapsed_s", "loss")


def main(argv: Sequence[str] | None = None) -> None:
    args, settings = asked(argv)
    with alone_in(args.out):
        _train(args, settings)


def _train(args: argparse.Namespace, settings: Settings) -> None:
    if args.workers == 1:
        _work(0, 1, "", args, settings)
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        processes: Any = torch.multiprocessing
        workers = processes.spawn(
            _work, (args.workers, meeting, args, settings), nprocs=args.workers, join=False
        )

        def pass_on(number: int, _frame: object) -> None:
            for pid in workers.pids():
                os.kill(pid, number)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, pass_on)
        while not workers.join():
            pass


def build_model(settings: Settings, tokenizer: Any) -> Any:  # its types are loose
    torch.manual_seed(settings.seed)
    heads = settings.hidden // settings.head
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.hidden * 5 // 2,
        num_hidden_layers=settings.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": settings.theta},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
    )
    return LlamaForCausalLM(config)


def tokenizer_of(settings: Settings) -> Any:  # its types are loose
    """A new one, or that of the checkpoint from which the run starts."""
    if settings.start is None:
        return build_tokenizer()
    known: Any = AutoTokenizer.from_pretrained(settings.start)
    return wrap(known.backend_tokenizer)


class Run:
    """One worker's part of a training run. Workers hold equal weights after every step."""

    def __init__(
        self,
        out: Path,
        settings: Settings,
        *,
        worker: int,
        workers: int,
        device: str,
        fast: bool,
    ) -> None:
        self.out, self.settings = out, settings
        self.worker, self.workers, self.device = worker, workers, torch.device(device)
        if not (out / "tokenizer.json").is_file() and worker == 0:
            tokenizer_of(settings).save_pretrained(out)
        if workers > 1:
            dist.barrier()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(out)
        self.model: Any = build_model(settings, self.tokenizer)
        self.model.to(self.device)
        self.model.config.use_cache = False
        table = self.model.model.embed_tokens.weight
        self.pieces = Pieces(self.tokenizer, settings.hidden).to(self.device)
        if settings.start:
            known = LlamaForCausalLM.from_pretrained(settings.start).state_dict()
            self.model.load_state_dict(known)
            self.pieces.take_over(table.detach())
        inner = [p for p in self.model.parameters() if p is not table]
        matrices = [p for p in inner if p.ndim == 2]
        rest = [*(p for p in inner if p.ndim != 2), *self.pieces.parameters()]
        self.params = [*matrices, *rest]
        self.muon = Muon(matrices, settings.lr, MOMENTUM, half=fast)
        self.adam = torch.optim.AdamW(rest, settings.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
        self._loss = loss_of(self.model, WINDOW, table_of=self.pieces, half=fast)
        if fast:
            self._loss = torch.compile(self._loss, dynamic=True)
        self.step = self.num_tokens = self.num_learnt = self.shard = self.index = 0
        self.elapsed_s = 0.0
        self.loss = 0.0

    @property
    def progress(self) -> float:
        if self.settings.steps:
            return self.step / self.settings.steps
        return self.elapsed_s / (60 * (self.settings.minutes or 1))

    def feed(self) -> Iterator[Batch]:
        """This worker's batches."""
        options = self.settings
        source = Source(
            options.seed, options.dialogues, options.mixture, stages_of(options.stages), self.worker
        )
        for shard, index, batch in batches(self.tokenizer, source, self.shard, self.index):
            self.shard, self.index = shard, index + 1
            yield batch.to(self.device)

    def train_on(self, batch: Batch) -> None:
        loss = self._loss(batch.ids, batch.at, batch.targets)
        torch.autograd.backward(loss)
        totals = torch.tensor(
            [float(loss.detach()), batch.targets.numel(), batch.ids.numel()], dtype=torch.float64
        )
        if self.workers > 1:
            _add_up([p.grad for p in self.params if p.grad is not None], totals)
        total, learnt, tokens = totals.tolist()
        for p in self.params:
            p.grad.div_(learnt)
        nn.utils.clip_grad_norm_(self.params, 1.0)
        self._update()
        self.step += 1
        self.num_tokens += int(tokens)
        self.num_learnt += int(learnt)
        new = total / learnt
        self.loss = new if self.step == 1 else 0.96 * self.loss + 0.04 * new

    def _update(self) -> None:
        warm = min(1.0, (self.step + 1) / WARM_UP)
        left = min(1.0, (1 - self.progress) / (1 - DECAY_FROM))
        share = warm * max(FLOOR, left)
        self.muon.lr = self.settings.lr * share
        self.adam.param_groups[0]["lr"] = self.settings.adam_lr * share
        self.muon.step()
        self.adam.step()
        for p in self.params:
            p.grad = None

    @torch.no_grad()
    def ready(self) -> Any:
        """The model, with the embeddings as they are now."""
        self.model.model.embed_tokens.weight.copy_(self.pieces())
        return self.model

    # --- on disk ---------------------------------------------------------------------------------

    def save(self) -> None:
        """Save the checkpoint, rounded, and the exact state from which the run is resumed."""
        self.model.config.use_cache = True
        model = self.ready()
        stored = {
            name: weight.to(STORED)
            for name, weight in model.state_dict().items()
            if name not in TIED
        }
        model.save_pretrained(self.out, state_dict=stored)
        self.model.config.use_cache = False
        state = {
            "settings": asdict(self.settings),
            "model": self.model.state_dict(),
            "pieces": self.pieces.state_dict(),
            "muon": self.muon.state,
            "adam": self.adam.state_dict(),
            "at": {name: getattr(self, name) for name in _PLACE},
        }
        torch.save(state, self.out / f"{STATE}.part")
        (self.out / f"{STATE}.part").replace(self.out / STATE)

    def load(self) -> None:
        state = torch.load(self.out / STATE, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.pieces.load_state_dict(state["pieces"])
        self.muon.state = state["muon"]
        self.adam.load_state_dict(state["adam"])
        for name in _PLACE:
            setattr(self, name, state["at"][name])


def _work(
    worker: int, workers: int, meeting: str, args: argparse.Namespace, settings: Settings
) -> None:
    torch.set_num_threads(args.threads)
    if workers > 1:
        dist.init_process_group("gloo", init_method=meeting, rank=worker, world_size=workers)
    run = Run(
        args.out, settings, worker=worker, workers=workers, device=args.device, fast=args.fast
    )
    if args.resume and (args.out / STATE).is_file():
        run.load()
    stop = _Stop()
    if worker == 0:
        num = sum(p.numel() for p in run.model.parameters())
        _say(f"{num / 1e6:.2f} M parameters, {len(run.tokenizer)} tokens, {workers} workers")
    _loop(run, stop, args.every * 60, args.until)
    if worker == 0:
        _report(run)
        run.save()
    if workers > 1:
        dist.barrier()
        dist.destroy_process_group()


def _loop(run: Run, stop: _Stop, every_s: float, until: int | None) -> None:
    report_at = run.elapsed_s + every_s
    started = time.monotonic() - run.elapsed_s
    if run.progress >= 1:
        return
    for batch in run.feed():
        run.train_on(batch)
        run.elapsed_s = _shared(run, time.monotonic() - started)
        if run.worker == 0 and run.step % 20 == 0:
            rate = run.num_tokens / run.elapsed_s
            _say(
                f"{run.elapsed_s:6.0f} s  step {run.step}  loss {run.loss:.4f}  "
                f"{run.num_tokens / 1e6:.2f} M tokens  {rate:.0f}/s  "
                f"{run.num_learnt / run.num_tokens:.0%} learnt  {run.progress:.0%}"
            )
        if run.elapsed_s >= report_at:
            report_at += every_s
            if run.worker == 0:
                _report(run)
                run.save()
        if run.progress >= 1 or run.step == until or _agreed(run, stop):
            return


def _report(run: Run) -> None:
    run.model.eval()
    found = quick_check(run.ready(), run.tokenizer, CHECK_SAMPLE)
    run.model.train()
    _say("check " + json.dumps({name: round(share, 2) for name, share in found.items()}))


def _add_up(grads: Sequence[Tensor], totals: Tensor) -> None:
    """Replace each by its sum over the workers."""
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    dist.all_reduce(totals)
    for grad, part in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def _agreed(run: Run, stop: _Stop) -> bool:
    """Return whether any worker was asked to stop."""
    return _shared(run, float(stop.asked)) > 0


def _shared(run: Run, value: float) -> float:
    """The greatest of the workers' values."""
    if run.workers == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return float(shared)


class _Stop:
    """Remembers that a signal asked the run to end."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
