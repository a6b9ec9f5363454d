"""Train the tiny model: `python -m models.tiny.train --minutes 60 --out out/tiny`.

Writes an ordinary checkpoint (safetensors, tokenizer.json, chat template) that
transformers, vLLM and `aios` load as it is, and `state.pt`, from which
`--resume` goes on. Promises: dialogues and batches depend on the seed alone; with
`--steps` instead of `--minutes` the schedule does too, and a stopped and resumed
run ends with the weights of an uninterrupted one. Stops at SIGINT and SIGTERM
after the step at hand, with everything saved.

Muon for the matrices (Jordan et al., 2024), AdamW for the rest. Several
`--workers` are processes of one thread each that average their gradients: on a
CPU with other things to do, faster than threads that wait for one another.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 - as everyone calls it
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from models.tiny.batches import Batch, batches
from models.tiny.data import MIXTURES
from models.tiny.evaluate import quick_check
from models.tiny.muon import Muon
from models.tiny.tokenizer import PAD, WINDOW, build_tokenizer

STATE: Final = "state.pt"
WARM_UP: Final = 40  # steps
DECAY_FROM: Final = 0.45  # of the run; linear to FLOOR
FLOOR: Final = 0.02
MOMENTUM: Final = 0.95
CHECK_SAMPLE: Final = 10  # dialogues of each case, when a run checks itself


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is; kept in its state."""

    minutes: float | None = 60.0
    steps: int | None = None
    seed: int = 7
    hidden: int = 192
    layers: int = 4
    tokens: int = 4096  # of a batch, padding included; each worker has one a step
    lr: float = 0.01
    adam_lr: float = 3e-3
    mixture: str = "all"  # one of `data.MIXTURES`
    start: str | None = None  # a checkpoint whose weights are taken over


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    settings = Settings(
        None if args.steps else args.minutes, args.steps, args.seed, args.hidden, args.layers,
        args.tokens, args.lr, mixture=args.mixture, start=args.start,
    )  # fmt: skip
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models.tiny.train", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, help="where the checkpoint goes")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the run")
    parser.add_argument("--steps", type=int, help="length of the run, instead of minutes")
    parser.add_argument("--until", type=int, help="stop after so many steps, to be resumed")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/state.pt")
    parser.add_argument("--start", help="a checkpoint to take the weights of")
    parser.add_argument("--workers", type=int, default=1, help="processes that share each step")
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of a batch")
    parser.add_argument("--mixture", choices=tuple(MIXTURES), default="all")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--every", type=float, default=5.0, help="minutes between evaluations")
    return parser


def build_model(settings: Settings, tokenizer: Any) -> Any:  # its types are loose
    torch.manual_seed(settings.seed)
    heads = settings.hidden // 32
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.hidden * 8 // 3 // 32 * 32,
        num_hidden_layers=settings.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
    )
    model = LlamaForCausalLM(config)
    if settings.start:
        take_over(model, tokenizer, settings.start)
    return model


@torch.no_grad()
def take_over(model: LlamaForCausalLM, tokenizer: Any, source: str) -> None:
    """Start from another checkpoint's weights, whatever its tokens.

    A token begins as the mean of the tokens into which the other tokenizer parts
    its text. Layers that the other model lacks begin as doing nothing.
    """
    other: Any = LlamaForCausalLM.from_pretrained(source)
    known = AutoTokenizer.from_pretrained(source)
    table, old = model.model.embed_tokens.weight, other.model.embed_tokens.weight
    for token, at in tokenizer.get_vocab().items():
        text = tokenizer.backend_tokenizer.decoder.decode([token])
        parts = known.backend_tokenizer.encode(text, add_special_tokens=False).ids
        if parts and "\ufffd" not in text:
            table[at] = old[parts].mean(0)
    for index, layer in enumerate(model.model.layers):
        if index < len(other.model.layers):
            layer.load_state_dict(other.model.layers[index].state_dict())
        else:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    model.model.norm.load_state_dict(other.model.norm.state_dict())


class Run:
    """One worker's part of a training run. Workers hold equal weights after every step."""

    def __init__(
        self, out: Path, settings: Settings, worker: int, workers: int, device: str
    ) -> None:
        self.out, self.settings = out, settings
        self.worker, self.workers, self.device = worker, workers, torch.device(device)
        if not (out / "tokenizer.json").is_file() and worker == 0:
            build_tokenizer().save_pretrained(out)
        if workers > 1:
            dist.barrier()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(out)
        self.model: Any = build_model(settings, self.tokenizer)
        self.model.to(self.device)
        self.model.config.use_cache = False
        embedded = {id(self.model.model.embed_tokens.weight)}
        params = list(self.model.parameters())
        matrices = [p for p in params if p.ndim == 2 and id(p) not in embedded]
        rest = [p for p in params if p.ndim != 2 or id(p) in embedded]
        self.muon = Muon(matrices, settings.lr, MOMENTUM)
        self.adam = torch.optim.AdamW(rest, settings.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
        self.step = self.num_tokens = self.shard = self.index = 0
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
        every = batches(
            self.tokenizer, options.seed, options.tokens, self.shard, self.index, options.mixture
        )
        while True:
            group = list(itertools.islice(every, self.workers))
            self.shard, self.index = group[-1][0], group[-1][1] + 1
            yield group[self.worker][2]

    def train_on(self, batch: Batch) -> None:
        loss, weight = self._loss(batch)
        torch.autograd.backward(loss)
        params = [p for p in self.model.parameters() if p.grad is not None]
        totals = torch.stack([loss.detach(), weight])
        if self.workers > 1:
            _add_up([p.grad for p in params], totals)
        for p in params:
            p.grad.div_(totals[1])
        nn.utils.clip_grad_norm_(params, 1.0)
        self._update()
        self.step += 1
        self.num_tokens += batch.ids.numel() * self.workers
        new = float(totals[0] / totals[1])
        self.loss = new if self.step == 1 else 0.96 * self.loss + 0.04 * new

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The weighted sum of the losses, and of the weights."""
        ids, weights = batch.ids.to(self.device), batch.weights.to(self.device)
        states = self.model.model(input_ids=ids[:, :-1]).last_hidden_state
        where = weights > 0
        logits = self.model.lm_head(states[where])
        losses = F.cross_entropy(logits.float(), ids[:, 1:][where], reduction="none")
        return (losses * weights[where]).sum(), weights.sum()

    def _update(self) -> None:
        warm = min(1.0, (self.step + 1) / WARM_UP)
        left = min(1.0, (1 - self.progress) / (1 - DECAY_FROM))
        share = warm * max(FLOOR, left)
        self.muon.lr = self.settings.lr * share
        self.adam.param_groups[0]["lr"] = self.settings.adam_lr * share
        self.muon.step()
        self.adam.step()
        self.model.zero_grad(set_to_none=True)

    # --- on disk ---------------------------------------------------------------------------------

    def save(self) -> None:
        """The checkpoint, and the state from which the run goes on."""
        self.model.config.use_cache = True
        self.model.save_pretrained(self.out)
        self.model.config.use_cache = False
        state = {
            "settings": asdict(self.settings),
            "model": self.model.state_dict(),
            "muon": self.muon.state,
            "adam": self.adam.state_dict(),
            "at": (self.step, self.num_tokens, self.shard, self.index, self.elapsed_s, self.loss),
        }
        torch.save(state, self.out / f"{STATE}.part")
        (self.out / f"{STATE}.part").replace(self.out / STATE)

    def load(self) -> None:
        state = torch.load(self.out / STATE, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.muon.state = state["muon"]
        self.adam.load_state_dict(state["adam"])
        self.step, self.num_tokens, self.shard, self.index, self.elapsed_s, self.loss = state["at"]


def _work(
    worker: int, workers: int, meeting: str, args: argparse.Namespace, settings: Settings
) -> None:
    torch.set_num_threads(args.threads)
    setattr(LlamaRMSNorm, "forward", _rms_norm)  # noqa: B010 - one kernel instead of six
    if workers > 1:
        dist.init_process_group("gloo", init_method=meeting, rank=worker, world_size=workers)
    args.out.mkdir(parents=True, exist_ok=True)
    run = Run(args.out, settings, worker, workers, args.device)
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
                f"{run.num_tokens / 1e6:.2f} M tokens  {rate:.0f}/s  {run.progress:.0%}"
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
    found = quick_check(run.model, run.tokenizer, CHECK_SAMPLE)
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
    """Whether any worker was told to stop."""
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


def _rms_norm(self: LlamaRMSNorm, states: Tensor) -> Tensor:
    return F.rms_norm(states, self.weight.shape, self.weight, self.variance_epsilon)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
