"""Write a checkpoint as GGUF, for llama.cpp: `python -m models.tiny.export_gguf --out tiny.gguf`.

Needs the package `gguf`. llama.cpp then serves it with its chat template
(`llama-server -m tiny.gguf --jinja`). The pre-tokenizer is the one that
llama.cpp calls `smollm`, since ours was made to be that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from safetensors.torch import load_file
from torch import Tensor

_NAMES: Final = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
_OUTER: Final = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
}
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4  # gguf.TokenType


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m models.tiny.export_gguf", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", type=Path, default=Path(__file__).parent)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    export(args.model, args.out)
    print(f"wrote {args.out}")


def export(source: Path, out: Path) -> None:
    """Write the checkpoint in `source` to the file `out`, in float32."""
    import gguf  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415 - for this alone

    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(out, "llama")
    _write_shape(writer, config)
    _write_tokens(writer, source, config)
    for name, tensor in tensors(load_file(source / "model.safetensors"), config):
        writer.add_tensor(name, tensor.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(weights: dict[str, Tensor], config: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The weights under llama.cpp's names. It rotates neighbours, transformers halves: reorder."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, tensor in weights.items():
        if name in _OUTER:
            yield _OUTER[name], tensor
            continue
        _, _, layer, inner = name.split(".", 3)
        kind = inner.split(".")[-2]
        if kind in heads:
            tensor = _interleaved(tensor, heads[kind])  # noqa: PLW2901
        yield f"blk.{layer}.{_NAMES[inner]}", tensor


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns)


def _write_shape(writer: Any, config: dict[str, Any]) -> None:
    writer.add_name("aios-tiny")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _write_tokens(writer: Any, source: Path, config: dict[str, Any]) -> None:
    about = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["content"]: token["special"] for token in about["added_tokens"]}
    ids = about["model"]["vocab"] | {
        token["content"]: token["id"] for token in about["added_tokens"]
    }
    tokens = sorted(ids, key=ids.__getitem__)
    kinds = [
        _NORMAL if token not in added else _CONTROL if added[token] else _USER_DEFINED
        for token in tokens
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in about["model"]["merges"]])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)
    template = (source / "chat_template.jinja").read_text(encoding="utf-8")
    writer.add_chat_template(template)


if __name__ == "__main__":
    main()
