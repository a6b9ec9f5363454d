"""The in-process LLM core over transformers and torch. See `core`, and `engine` for the step loop.

    prompt -> loading, prompt          a request becomes token ids
    loop -> generation                 runs begin, step, pause and end, in one thread
    engine -> attention, kv            one forward for all of them (unpacked: one by one)
    sampling, grammar, text            logits become tokens, tokens become an answer

Importing this imports torch and transformers; importing `aios_core.cores` does not.
"""

from aios_core.cores.transformers.core import TransformersCore

__all__ = ["TransformersCore"]
