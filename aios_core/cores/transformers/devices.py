"""Which devices torch can use, for those who may not import torch themselves."""

from __future__ import annotations

import torch


def gpu_names() -> list[str]:
    """The names of the GPUs, in torch's order; empty without one."""
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
