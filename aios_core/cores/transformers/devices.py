"""List the GPUs that torch can use, for modules that must not import torch."""

from __future__ import annotations

import torch


def gpu_names() -> list[str]:
    """Return the names of the GPUs in torch's order; empty if there is none."""
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
