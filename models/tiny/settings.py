"""The settings of a training run, checked before it starts."""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import torch

from models.tiny.batches import DIALOGUES_PER_SHARD
from models.tiny.data import MIXTURES

STATE: Final = "state.pt"  # in the folder of a run: the state to resume from
STAGES: Final = "first:40,route:16,match:40"
_SHAPE: Final = ("hidden", "layers", "head", "theta")  # what weights fit


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one training run; kept in its state."""

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
    start: str | None = None  # a checkpoint to take the tokenizer and weights from


def asked(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Settings]:
    """Parse the command line. Settings that contradict each other end the program with an error."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.hidden % args.head:
        parser.error(f"--hidden {args.hidden} is no multiple of --head {args.head}")
    if args.dialogues > DIALOGUES_PER_SHARD:
        parser.error(f"--dialogues {args.dialogues}: a shard has {DIALOGUES_PER_SHARD}")
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
    return args, settings


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Makes the folder, and holds it. Raises `SystemExit` if another run does, or it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise SystemExit(f"--out {folder} cannot be used: {error.strerror}") from error
    try:
        _lock(held, folder)
        yield
    finally:
        os.close(held)


def _lock(held: int, folder: Path) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SystemExit(f"--out {folder}: another run is writing there") from error


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
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        has = {
            "hidden": about["hidden_size"],
            "layers": about["num_hidden_layers"],
            "head": about["head_dim"],
            "theta": about["rope_parameters"]["rope_theta"],
        }
    except ValueError as error:
        return f"its config.json cannot be read: {error}"
    except KeyError as error:
        return f"is no Llama: its config.json has no {error.args[0]}"
    return _difference(settings, has)


def _other_state(settings: Settings, state: Path) -> str:
    """Explain why a run cannot resume from a state; rates, mixtures and lengths may change."""
    try:
        has = torch.load(state, map_location="cpu", weights_only=True)["settings"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError):
        return f"no state to resume from:  {state.name} cannot be read"
    return _difference(settings, has)


def _difference(settings: Settings, has: dict[str, Any]) -> str:
    wanted = {name: getattr(settings, name) for name in _SHAPE}
    return ", ".join(
        f"--{name} {has[name]}, not {value}" for name, value in wanted.items() if has[name] != value
    )


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    return int(_above_0(text, number))


def _amount(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    return _above_0(text, number)


def _above_0(text: str, number: float) -> float:
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models.tiny.train", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, help="where the checkpoint goes")
    parser.add_argument("--minutes", type=_amount, default=60.0, help="length of the run")
    parser.add_argument("--steps", type=_count, help="length of the run, instead of minutes")
    parser.add_argument("--until", type=_count, help="stop after so many steps, to be resumed")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/state.pt")
    parser.add_argument("--start", help="a checkpoint to begin with, of the same shape")
    parser.add_argument("--workers", type=_count, default=1, help="processes that share each step")
    parser.add_argument("--threads", type=_count, default=1, help="of each worker")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--hidden", type=_count, default=192)
    parser.add_argument("--layers", type=_count, default=6)
    parser.add_argument("--head", type=_count, default=64, help="width of each attention head")
    parser.add_argument("--theta", type=_amount, default=100_000.0, help="base of the positions")
    parser.add_argument(
        "--dialogues", type=_count, default=16, help="of a worker's batch, on average"
    )
    parser.add_argument("--mixture", choices=tuple(MIXTURES), default="all")
    parser.add_argument("--stages", default=STAGES, help="what comes before it: first:40,...")
    parser.add_argument("--fast", action="store_true", help="compile, and compute in bfloat16")
    parser.add_argument("--lr", type=_amount, default=0.01, help="of the matrices")
    parser.add_argument("--adam-lr", type=_amount, default=2e-3, help="of everything else")
    parser.add_argument("--every", type=_amount, default=5.0, help="minutes between evaluations")
    return parser
