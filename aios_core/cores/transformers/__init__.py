"""The in-process LLM core over transformers and torch.

    core                               the core that the kernel uses; owns the parts below
    loading, prompt                    load the model; turn a request into token ids
    loop, generation                   start, step, suspend and end runs, in one thread
    engine, attention, varlen, kv      one forward pass for all sequences
    unpacked                           one forward pass for each, where packing is unsuitable
    sampling, grammar, text            turn logits into tokens, and tokens into an answer

Importing this package imports torch and transformers; importing `aios_core.cores` does not.
"""

from aios_core.cores.transformers.core import TransformersCore

__all__ = ["TransformersCore"]
