"""Load a causal language model from a folder or from the hub.

Every problem with the files is a `ModelLoadError` that names it. A weight that the files
lack is an error too: transformers would fill it with random numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from aios_core.errors import ModelLoadError

_WEIGHTS: Final = ("model.safetensors", "pytorch_model.bin")
_INDEXES: Final = tuple(name + ".index.json" for name in _WEIGHTS)
_TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_WINDOWS: Final = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
_DEFAULT_WINDOW: Final = 4096  # for models without position limits
_SAMPLES: Final = 64  # numbers of each weight that go into the fingerprint


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that can generate, with its tokenizer and its limits."""

    name: str
    model: PreTrainedModel
    tokenizer: Any  # transformers' tokenizers have no useful common type
    fingerprint: str  # of weights and number format
    context_window: int  # tokens
    vocab_size: int  # of the logits
    eos_ids: tuple[int, ...]
    device: torch.device
    dtype: torch.dtype


def load_model(
    source: str | Path,
    *,
    dtype: str | None = None,
    device: str | None = None,
    context_window: int | None = None,
) -> LoadedModel:
    """Load a model and its tokenizer.

    Args:
        source: a folder, or a name on the hub.
        dtype: such as "bfloat16"; None: that of the files (but float32 instead of float16 on
            a CPU, which has no kernels for float16).
        device: such as "cuda:1"; None: a GPU if there is one.
        context_window: tokens; None: the model's own limit.

    Raises:
        ModelLoadError: files are missing or damaged, or there is no such format or device.
    """
    source = Path(source).expanduser() if Path(source).expanduser().is_dir() else str(source)
    check_files(source)
    place = choose_device(device)
    wanted: Any = "auto" if dtype is None else getattr(torch, dtype, None)
    if wanted is None:
        raise ModelLoadError(f"dtype: got {dtype!r}; allowed: float32, bfloat16, float16")
    with _converted(source), _quiet():
        tokenizer = AutoTokenizer.from_pretrained(source)
        loader: Any = AutoModelForCausalLM  # its types do not declare the report
        model, report = loader.from_pretrained(source, dtype=wanted, output_loading_info=True)
        if missing := sorted(report["missing_keys"]):
            some = ", ".join(missing[:3])
            raise ModelLoadError(f"{source}: {len(missing)} weights are missing, such as {some}")
        if dtype is None and place.type == "cpu" and model.dtype is torch.float16:
            model = model.float()
        model = model.to(place).eval()
    return LoadedModel(
        name=str(source),
        model=model,
        tokenizer=tokenizer,
        fingerprint=fingerprint(model),
        context_window=context_window or context_window_of(model, tokenizer),
        vocab_size=model.config.get_text_config().vocab_size,
        eos_ids=eos_ids_of(model, tokenizer),
        device=place,
        dtype=model.dtype,
    )


def check_files(source: str | Path) -> None:
    """Raise `ModelLoadError` that names the missing files, if a model's folder is incomplete."""
    if not isinstance(source, Path):
        if source.startswith((".", "/", "~")) or source.count("/") > 1 or os.sep == source[1:2]:
            raise ModelLoadError(f"there is no folder {source}")
        return
    if not (source / "config.json").is_file():
        raise ModelLoadError(f"{source} is missing config.json")
    for index in _INDEXES:
        if (source / index).is_file():
            _check_shards(source, index)
            break
    else:
        _require_one(source, _WEIGHTS, "weights")
    _require_one(source, _TOKENIZERS, "a tokenizer")


def choose_device(device: str | None) -> torch.device:
    """Return the device of a name, or the best device of this machine."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as exc:
        raise ModelLoadError(f"device: got {device!r}; allowed: 'cpu', 'cuda', 'cuda:1'") from exc
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError(f"device: got {device!r}, but torch finds no usable GPU")
    return place


def fingerprint(model: PreTrainedModel) -> str:
    """Hash the configuration and a sample of every weight, to recognize a model.

    Takes milliseconds, and does not depend on the files that the weights came from.
    """
    config = model.config.to_dict()
    for name in ("transformers_version", "_name_or_path", "dtype", "torch_dtype"):
        config.pop(name, None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(_samples(weight).numpy().tobytes())
    return digest.hexdigest()[:32]


def context_window_of(model: PreTrainedModel, tokenizer: Any) -> int:
    """Return the model's context window: tokens of prompt and answer together."""
    config = model.config.get_text_config()
    windows = [value for name in _WINDOWS if isinstance(value := getattr(config, name, None), int)]
    limit = getattr(tokenizer, "model_max_length", None)
    if isinstance(limit, int) and limit < 10**9:  # transformers writes 1e30 for "none"
        windows.append(limit)
    return min(windows, default=_DEFAULT_WINDOW)


def eos_ids_of(model: PreTrainedModel, tokenizer: Any) -> tuple[int, ...]:
    """Collect the tokens that end an answer, from all places that may name them."""
    found: set[int] = set()
    for owner in (model.generation_config, model.config, tokenizer):
        eos = getattr(owner, "eos_token_id", None)
        found.update([eos] if isinstance(eos, int) else eos or ())
    return tuple(sorted(found))


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free on a device now; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _samples(weight: Tensor) -> Tensor:
    flat = weight.detach().flatten()
    places = torch.linspace(0, flat.numel() - 1, min(_SAMPLES, flat.numel())).long()
    return flat[places.to(flat.device)].double().cpu()


def _check_shards(source: Path, index: str) -> None:
    try:
        shards = set(json.loads((source / index).read_text("utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as exc:
        raise ModelLoadError(f"{source / index} is damaged: {exc!r}") from exc
    if missing := sorted(shard for shard in shards if not (source / shard).is_file()):
        raise ModelLoadError(f"{source} is missing {', '.join(missing)}")


def _require_one(source: Path, names: tuple[str, ...], what: str) -> None:
    if not any((source / name).is_file() for name in names):
        raise ModelLoadError(f"{source} is missing {what}: none of {', '.join(names)}")


@contextlib.contextmanager
def _converted(source: str | Path) -> Iterator[None]:
    """Convert what transformers raises for a model that it cannot load to `ModelLoadError`."""
    try:
        yield
    except ModelLoadError:
        raise
    except SafetensorError as exc:
        raise ModelLoadError(f"{source}: the weights are damaged: {exc}") from exc
    except MemoryError as exc:
        raise ModelLoadError(f"{source}: there is not enough memory for the weights") from exc
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError) as exc:
        raise ModelLoadError(f"cannot load {source}: {exc}") from exc


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Disable progress bars, since a library must not write to the terminal."""
    logging: Any = transformers.utils.logging
    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()
