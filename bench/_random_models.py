"""Random-weight models for benchmarks: their speed is that of real ones, their words are not."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

TINY = Path(__file__).resolve().parent.parent / "models" / "tiny"


@dataclass(frozen=True)
class Size:
    """The shape of a Llama model."""

    name: str
    hidden: int
    layers: int
    heads: int
    vocabulary: int = 8_192


SIZES = {
    "15M": Size("15M", hidden=384, layers=6, heads=6),
    "100M": Size("100M", hidden=768, layers=14, heads=12),
}


def save_random_model(size: Size, folder: Path, window: int = 4_096) -> Path:
    """Write a model of a size, with the tokenizer of `tiny` and fixed random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=size.hidden,
        intermediate_size=size.hidden * 8 // 3 // 64 * 64,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        vocab_size=size.vocabulary,
        max_position_embeddings=window,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "chat_template.jinja"):
        shutil.copyfile(TINY / name, folder / name)
    settings = (TINY / "tokenizer_config.json").read_text("utf-8")
    (folder / "tokenizer_config.json").write_text(settings.replace("1024", str(window)), "utf-8")
    return folder


def prompts(lengths: list[int], seed: int = 0) -> list[list[int]]:
    """Random prompts of these lengths, in tokens."""
    random = torch.Generator().manual_seed(seed)
    return [torch.randint(8, 600, (length,), generator=random).tolist() for length in lengths]
