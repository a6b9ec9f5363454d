"""Read the configuration files of a sentence-transformer directory. Loads no model.

Such a directory is a transformers model with three more files: `modules.json` (the
steps), the pooling step's `config.json`, and `sentence_bert_config.json` (the longest
text). Without these files, states are pooled by their mean and normalized, as most
models of that family were trained.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

from aios_core.errors import ModelLoadError

Pooling = Literal["mean", "cls", "max", "lasttoken"]

_MODULES: Final = "modules.json"
_TRANSFORMER, _POOLING, _NORMALIZE = "Transformer", "Pooling", "Normalize"
_FLAGS: Final[dict[str, Pooling]] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
}
_SAMPLE_BYTES: Final = 65_536  # of the start and the end of the weights


@dataclass(frozen=True, slots=True)
class SentenceDirectory:
    """A sentence-transformer directory: its transformer, and how states become one vector."""

    root: Path
    transformer: Path
    pooling: Pooling = "mean"
    max_tokens: int | None = None  # of a text; None: the model's own limit
    dimensions: int = 0  # of a vector

    @classmethod
    def read(cls, root: str | Path) -> Self:
        """Read a directory.

        Raises `ModelLoadError` if it is not such a directory, or has unsupported steps.
        """
        root = Path(root).expanduser()
        if not root.is_dir():
            raise ModelLoadError(
                f"there is no folder {root}; embedding.path must be a folder with a model"
            )
        transformer = root
        pooling: Pooling = "mean"
        if (root / _MODULES).is_file():
            for module in _json(root / _MODULES):
                kind = str(module.get("type", "")).rsplit(".", 1)[-1]
                place = root / str(module.get("path", ""))
                if kind == _TRANSFORMER:
                    transformer = place
                elif kind == _POOLING:
                    pooling = _pooling(place / "config.json")
                elif kind != _NORMALIZE:  # all vectors are
                    raise ModelLoadError(
                        f"{root} has a step {kind!r}; allowed: {_TRANSFORMER}, {_POOLING} and "
                        f"{_NORMALIZE}"
                    )
        config = _json(transformer / "config.json")
        limits = transformer / "sentence_bert_config.json"
        max_tokens = _json(limits).get("max_seq_length") if limits.is_file() else None
        dimensions = config.get("hidden_size") or config.get("d_model") or 0
        return cls(root, transformer, pooling, max_tokens, dimensions)

    def fingerprint(self) -> str:
        """Hash the weights, the configuration and the pooling."""
        digest = hashlib.sha256(f"{self.pooling} {self.max_tokens}".encode())
        for file in sorted(self.transformer.iterdir()):
            if file.name in ("config.json", "tokenizer.json", "vocab.txt"):
                digest.update(file.read_bytes())
            elif file.suffix in (".safetensors", ".bin"):
                size = file.stat().st_size
                with file.open("rb") as weights:
                    digest.update(f"{file.name} {size}".encode() + weights.read(_SAMPLE_BYTES))
                    weights.seek(max(0, size - _SAMPLE_BYTES))
                    digest.update(weights.read())
        return digest.hexdigest()[:12]


def _pooling(file: Path) -> Pooling:
    config = _json(file)
    chosen = [mode for flag, mode in _FLAGS.items() if config.get(flag)]
    unknown = [key for key, on in config.items() if key.startswith("pooling_mode") and on is True]
    if len(chosen) != 1 or len(unknown) != 1:
        raise ModelLoadError(f"{file}: got pooling {unknown}; allowed: one of {list(_FLAGS)}")
    return chosen[0]


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except FileNotFoundError as exc:
        raise ModelLoadError(f"{file.parent} is missing {file.name}") from exc
    except (OSError, ValueError) as exc:
        raise ModelLoadError(f"{file} cannot be read: {exc}") from exc
