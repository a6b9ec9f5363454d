"""Small models with random weights, made once for all tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from aios_core.testing.core_contract import Rig

from .rig import TINY, Folders, started

VOCABULARY: int = json.loads((TINY / "config.json").read_text(encoding="utf-8"))["vocab_size"]

# What each architecture needs to be small. Windows are shorter than the tests' sequences.
SMALL: Mapping[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 12},
    "gemma2": {
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 12,
        "attn_logit_softcapping": 2.0,
    },
    "gpt_oss": {
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": 12,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512},
    "falcon": {"multi_query": True, "alibi": False, "parallel_attn": True},
    "bloom": {"n_layer": 2, "n_head": 4},
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1, "expand": 2},
}
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "initializer_range": 0.3,  # far from uniform, so that an error shows
}


def save_model(kind: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A random model of that architecture, with the tokenizer of `tiny`."""
    torch.manual_seed(0)
    options = _COMMON | SMALL[kind]
    config = AutoConfig.for_model(kind, **options)
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(TINY / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folders of small random models, by architecture and number format."""
    made: dict[tuple[str, torch.dtype], Path] = {}

    def folder(kind: str, dtype: torch.dtype = torch.float32) -> Path:
        if (kind, dtype) not in made:
            made[kind, dtype] = save_model(kind, tmp_path_factory.mktemp(kind), dtype)
        return made[kind, dtype]

    return folder


@pytest.fixture
async def tiny() -> AsyncIterator[Rig]:
    async with started() as rig:
        yield rig


@pytest.fixture
async def babbler(model_folder: Folders) -> AsyncIterator[Rig]:
    """A model that writes fixed tokens, invalid UTF-8 included."""
    async with started(model_folder("llama")) as rig:
        yield rig
