"""Count tokens for classic AutoGen as the kernel's cores do, without tiktoken's download.

Classic cuts conversations (`MessageTokenLimiter`) and texts with tiktoken's encodings, which it
gets through the module's name `tiktoken`. This name is replaced in the modules that use it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from types import ModuleType, SimpleNamespace
from typing import Any, Final

from aios_core import Kernel, Message, build_llm_request, default_kernel
from aios_core.launch import Patches

_FRAME: Final = "x"  # precedes every text that is counted, since a prompt may not be empty


def patch_substitute(module: ModuleType, patches: Patches) -> None:
    """Replace tiktoken in a module of classic's."""
    encodings = SimpleNamespace(
        encoding_for_model=KernelEncoding, get_encoding=lambda _: KernelEncoding()
    )
    patches.replace(module, "tiktoken", encodings)


class KernelEncoding:
    """Replaces an encoding of tiktoken: splits texts into as many pieces as they have tokens.

    Args:
        model: a model that a core serves; for any other, the kernel's default model counts.
    """

    def __init__(self, model: str | None = None) -> None:
        self._asked = model

    def encode(self, text: str, **_: Any) -> list[str]:
        """Return the pieces of a text, all of about the same length."""
        if not text:
            return []
        num_tokens = max(1, self._count(f"{_FRAME} {text}") - self._frame)
        ends = [len(text) * place // num_tokens for place in range(num_tokens + 1)]
        return [text[start:end] for start, end in pairwise(ends)]

    def decode(self, tokens: Iterable[str]) -> str:
        """Return the text of some pieces."""
        return "".join(tokens)

    @cached_property
    def _kernel(self) -> Kernel:
        return default_kernel()

    @cached_property
    def _frame(self) -> int:
        return self._count(_FRAME)

    def _count(self, text: str) -> int:
        model = self._asked if self._asked in self._kernel.pool.models else None
        return self._kernel.measure_prompt(
            build_llm_request([Message("user", text)], model=model)
        ).num_tokens
