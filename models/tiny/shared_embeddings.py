"""Embeddings in which ` Ida` is `ida`, a capital and a space before it.

What is copied or compared often has a space or a capital in the one place and not in
the other: `to Ida` and `transfer_to_Ida`, `Trim the rope` and `trim_rope`. With a row
of its own for each form, each such pair has to be learnt. Here the forms of a piece
share its row, and there is one difference for all spaces and one for all capitals, so
that a piece which training hardly ever saw is copied like any other. The table that
is shipped holds the sums.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.tiny.tokenizer import forms

_SPREAD = 0.02  # of the values, to begin with


class Pieces(nn.Module):
    """Makes a table [tokens, hidden] of a row for each piece, a space and a capital."""

    _row: Tensor  # [tokens]: the row that each token uses
    _after_space: Tensor  # [tokens, 1]: 1 where a space goes before
    _capital: Tensor  # [tokens, 1]: 1 where the first letter is a capital

    def __init__(self, tokenizer: Any, hidden: int) -> None:
        super().__init__()
        found = list(forms(tokenizer))
        self._own, row = torch.unique(
            torch.tensor([form.piece for form in found]), return_inverse=True
        )
        self.register_buffer("_row", row)
        for name in ("after_space", "capital"):
            flags = torch.tensor([float(getattr(form, name)) for form in found])
            self.register_buffer(f"_{name}", flags[:, None])
        self.rows = nn.Parameter(torch.randn(len(self._own), hidden) * _SPREAD)
        self.space = nn.Parameter(torch.randn(hidden) * _SPREAD)
        self.capital = nn.Parameter(torch.randn(hidden) * _SPREAD)

    @torch.no_grad()
    def take_over(self, table: Tensor) -> None:
        """Begin with a table that another of this tokenizer has made."""
        self.rows.copy_(table[self._own])
        change = table - table[self._own][self._row]
        only = self._after_space > self._capital, self._capital > self._after_space
        for difference, chosen in zip((self.space, self.capital), only, strict=True):
            difference.copy_(change[chosen[:, 0]].mean(0))

    def forward(self) -> Tensor:
        found: Tensor = (
            self.rows[self._row] + self._after_space * self.space + self._capital * self.capital
        )
        return found
