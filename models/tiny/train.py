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
`--fast` compiles the loss and computes it in bfloat16; the weights stay float32.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from models.tiny.batches import Batch, Source, batches
from models.tiny.data import MIXTURES
from models.tiny.evaluate import quick_check
from models.tiny.loss import loss_of
from models.tiny.muon import Muon
from models.tiny.pieces import Pieces
from models.tiny.tokenizer import PAD, WINDOW, build_tokenizer

STATE: Final = "state.pt"
STAGES: Final = "first:40,route:16,match:40"
WARM_UP: Final = 40  # steps
DECAY_FROM: Final = 0.45  # of the run; linear to FLOOR
FLOOR: Final = 0.02
MOMENTUM: Final = 0.95
CHECK_SAMPLE: Final = 10  # dialogues of each case, when a run checks itself
_SHAPE: Final = ("hidden", "layers", "head", "theta")  # what weights fit
_PLACE: Final = ("step", "num_tokens", "num_learnt", "shard", "index", "elapsed_s", "loss")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is; kept in its state."""

    minutes: float | None = 60.0
    steps: int | None = None
    seed: int = 7
    hidden: int = 192
    layers: int = 6
    head: int = 64  # width of each attention head
    theta: float = 100_000.0  # base of the rotary positions
    dialogues: int = 16  # of a batch, on average; each worker has one a step
    lr: float = 0.01
    adam_lr: float = 2e-3
    mixture: str = "all"  # one of `data.MIXTURES`
    stages: str = STAGES  # mixtures before it, and how many shards of each
    start: str | None = None  # a checkpoint whose tokenizer and weights are taken over


def main(argv: Sequence[str] | None = None) -> None:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.hidden % args.head:
        parser.error(f"--hidden {args.hidden} is no multiple of --head {args.head}")
    try:
        stages_of(args.stages)
    except ValueError as error:
        parser.error(f"--stages: {error}")
    said = {name.name: getattr(args, name.name) for name in fields(Settings)}
    settings = Settings(**said | {"minutes": None if args.steps else args.minutes})
    if args.start and (other := _other_shape(settings, args.start)):
        parser.error(f"--start {args.start}: {other}")
    state = args.out / STATE
    if args.resume and state.is_file() and (other := _other_state(settings, state)):
        parser.error(f"--resume: the run in {args.out} has {other}")
    args.out.mkdir(parents=True, exist_ok=True)
    folder_in_use = os.open(args.out, os.O_RDONLY)
    try:
        fcntl.flock(folder_in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        parser.error(f"--out {args.out}: another run is writing there")
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


def stages_of(text: str) -> tuple[tuple[str, int], ...]:
    """`first:40,route:16` as pairs. Raises `ValueError`, which names what is wrong."""
    found = []
    for stage in filter(None, text.split(",")):
        mixture, _, count = stage.partition(":")
        if mixture not in MIXTURES:
            raise ValueError(f"{mixture!r} is no mixture; there are {', '.join(MIXTURES)}")
        if not count.isdecimal():
            raise ValueError(f"{stage!r} is not a mixture and a number of shards, as in first:40")
        found.append((mixture, int(count)))
    return tuple(found)


def _other_shape(settings: Settings, start: str) -> str:
    """In what the checkpoint differs from the model that is asked for; empty if in nothing."""
    file = Path(start) / "config.json"
    if not file.is_file():
        return "is no folder of a checkpoint"
    about = json.loads(file.read_text(encoding="utf-8"))
    has = {
        "hidden": about["hidden_size"],
        "layers": about["num_hidden_layers"],
        "head": about["head_dim"],
        "theta": about["rope_parameters"]["rope_theta"],
    }
    return _difference(settings, has)


def _other_state(settings: Settings, state: Path) -> str:
    """The same of a run that is to be resumed. Rates, mixtures and lengths may change."""
    return _difference(settings, torch.load(state, map_location="cpu")["settings"])


def _difference(settings: Settings, has: dict[str, Any]) -> str:
    wanted = {name: getattr(settings, name) for name in _SHAPE}
    return ", ".join(
        f"--{name} {has[name]}, not {value}" for name, value in wanted.items() if has[name] != value
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models.tiny.train", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, help="where the checkpoint goes")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the run")
    parser.add_argument("--steps", type=int, help="length of the run, instead of minutes")
    parser.add_argument("--until", type=int, help="stop after so many steps, to be resumed")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/state.pt")
    parser.add_argument("--start", help="a checkpoint to begin with, of the same shape")
    parser.add_argument("--workers", type=int, default=1, help="processes that share each step")
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--head", type=int, default=64, help="width of each attention head")
    parser.add_argument("--theta", type=float, default=100_000.0, help="base of the positions")
    parser.add_argument("--dialogues", type=int, default=16, help="of a worker's batch, on average")
    parser.add_argument("--mixture", choices=tuple(MIXTURES), default="all")
    parser.add_argument("--stages", default=STAGES, help="what comes before the mixture")
    parser.add_argument("--fast", action="store_true", help="compile, and compute in bfloat16")
    parser.add_argument("--lr", type=float, default=0.01, help="of the matrices")
    parser.add_argument("--adam-lr", type=float, default=2e-3, help="of everything else")
    parser.add_argument("--every", type=float, default=5.0, help="minutes between evaluations")
    return parser


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


class Run:
    """One worker's part of a training run. Workers hold equal weights after every step."""

    def __init__(
        self, out: Path, settings: Settings, worker: int, workers: int, device: str, fast: bool
    ) -> None:
        self.out, self.settings = out, settings
        self.worker, self.workers, self.device = worker, workers, torch.device(device)
        if not (out / "tokenizer.json").is_file() and worker == 0:
            start = settings.start
            tokenizer = AutoTokenizer.from_pretrained(start) if start else build_tokenizer()
            tokenizer.save_pretrained(out)
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
        """The checkpoint, and the state from which the run goes on."""
        self.model.config.use_cache = True
        self.ready().save_pretrained(self.out)
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
    run = Run(args.out, settings, worker, workers, args.device, args.fast)
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


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
