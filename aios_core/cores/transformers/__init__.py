"""Run a causal language model in this process, with transformers and torch.

    core        `TransformersCore`: the core that the kernel uses
    loading     load the model from a folder or the hub; `devices` lists the GPUs
    limits      refuse requests that the model cannot serve
    prompt      turn a request into token ids
    loop        the step loop: the one thread that runs the model
    generation  start, resume, advance and suspend runs
    sequence    token ids of a run, and the contract of an engine
    engine      the packed engine: one forward pass for all sequences
    unpacked    the unpacked engine: one pass for each sequence, where packing is unsuitable
    attention   attention over packed sequences; `varlen` does it in one GPU kernel
    kv          the KV cache of one sequence, and its image
    sampling    choose the next token; `grammar` constrains it to JSON or tool calls
    text        turn tokens into text and tool calls
    selfcheck   compare the packed engine with the model's own logits at load time

Importing this package imports torch and transformers; importing `aios_core.cores` does not.
"""

from aios_core.cores.transformers.core import TransformersCore

__all__ = ["TransformersCore"]
