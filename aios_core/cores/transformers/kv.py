"""The KV cache of one sequence, on the device and in the other memory tiers.

`DeviceKV` is the growing cache of a sequence that can run. `KVSequenceImage` implements
`aios_core.snapshot.KVImage`: it takes over a `DeviceKV` without a copy, can be moved to
the host and to a file, and becomes a `DeviceKV` again when its sequence resumes. On a
CPU, device memory is host memory; moving an image to the host then packs its tokens
tightly and removes them from the core's account.

Promise: an image of another model is refused with `SnapshotError`.
`KVAccount` has the only lock here; it guards the set of memories in use.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from aios_core.errors import SnapshotError
from aios_core.private_files import make_file, tighten
from aios_core.snapshot import Tier

FORMAT: Final = "aios-kv-1"
_BLOCK: Final = 64  # tokens; capacities are multiples of it


@dataclass(frozen=True, slots=True)
class KVLayout:
    """The shapes of a model's KV cache: a plane of keys and one of values for each layer.

    Planes of equal shape share one tensor, so that the memory of a sequence is one tensor
    for most models, however many layers they have.
    """

    model: str  # fingerprint
    groups: tuple[tuple[int, int, int], ...]  # (planes, heads, head dimension)
    planes: Mapping[int, tuple[int, int]]  # layer -> plane number of its keys, of its values
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(
        cls,
        model: str,
        shapes: Mapping[int, tuple[tuple[int, int], tuple[int, int]]],
        dtype: torch.dtype,
        device: torch.device,
    ) -> KVLayout:
        """Build a layout; `shapes` has heads and dimension of each layer's keys and values."""
        by_shape: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for layer in sorted(shapes):
            for kind, shape in enumerate(shapes[layer]):
                by_shape.setdefault(shape, []).append((layer, kind))
        groups = tuple((len(members), *shape) for shape, members in by_shape.items())
        number = {one: i for i, one in enumerate(chain.from_iterable(by_shape.values()))}
        planes = {layer: (number[layer, 0], number[layer, 1]) for layer in shapes}
        return cls(model, groups, planes, dtype, device)

    @property
    def bytes_per_token(self) -> int:
        return sum(n * heads * dim for n, heads, dim in self.groups) * self.dtype.itemsize

    def empty(self, capacity: int, device: torch.device | None = None) -> list[Tensor]:
        """Allocate for `capacity` tokens: for each group [planes, heads, capacity, dimension]."""
        return [
            torch.empty(n, heads, capacity, dim, dtype=self.dtype, device=device or self.device)
            for n, heads, dim in self.groups
        ]


class KVAccount:
    """The set of KV memories that a core's sequences hold on its device."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: weakref.WeakSet[DeviceKV] = weakref.WeakSet()

    @property
    def num_tokens(self) -> int:
        with self._lock:
            return sum(memory.length for memory in self._held)

    def add(self, memory: DeviceKV) -> None:
        with self._lock:
            self._held.add(memory)

    def remove(self, memory: DeviceKV) -> None:
        with self._lock:
            self._held.discard(memory)


class DeviceKV:
    """The keys and values of one sequence on the device.

    The first `length` tokens are valid. The memory grows by a quarter at a time.
    """

    def __init__(self, layout: KVLayout, account: KVAccount) -> None:
        self.layout = layout
        self.length = 0
        self.capacity = 0
        self.tensors: list[Tensor] = []
        self.account = account
        account.add(self)

    def __repr__(self) -> str:
        return f"<DeviceKV {self.length} of {self.capacity} tokens>"

    def reserve(self, num_tokens: int) -> None:
        """Grow to at least `num_tokens` tokens. Raises torch's error if memory runs out."""
        if num_tokens <= self.capacity:
            return
        wanted = max(num_tokens, self.capacity + self.capacity // 4)
        capacity = -(-wanted // _BLOCK) * _BLOCK
        grown = self.layout.empty(capacity)
        for new, old in zip(grown, self.tensors, strict=False):
            new[:, :, : self.length] = old[:, :, : self.length]
        self.tensors, self.capacity = grown, capacity

    def trim(self, length: int) -> None:
        """Drop all but the first `length` tokens."""
        self.length = min(self.length, length)

    def release(self) -> None:
        """Free the memory. Idempotent."""
        self.tensors, self.capacity, self.length = [], 0, 0
        self.account.remove(self)


class KVSequenceImage:
    """The KV cache of one suspended sequence, in one of the memory tiers."""

    def __init__(
        self,
        layout: KVLayout,
        num_tokens: int,
        *,
        memory: DeviceKV | None = None,
        path: Path | None = None,
    ) -> None:
        """Not for callers: use `of` or `open`."""
        self.companion: object | None = None  # the core's own state, kept with the image
        self._layout = layout
        self._num_tokens = num_tokens
        self._memory = memory
        self._packed: list[Tensor] = []
        self._path = path

    @classmethod
    def of(cls, memory: DeviceKV) -> KVSequenceImage:
        """Make an image that takes over a sequence's memory, without a copy."""
        return cls(memory.layout, memory.length, memory=memory)

    @classmethod
    def open(cls, path: Path, layout: KVLayout) -> KVSequenceImage:
        """Open an image that `to_disk` wrote, in this process or an earlier one.

        Raises `SnapshotError` if the file is missing, damaged or of another model.
        """
        return cls(layout, _read_header(path, layout), path=path)

    def __repr__(self) -> str:
        state = self.tier.name.lower() if self.is_alive else "released"
        return f"<KVSequenceImage {self.num_tokens} tokens, {state}>"

    @property
    def is_alive(self) -> bool:
        """False once the image was released, or taken over by a run."""
        return self._memory is not None or bool(self._packed) or self._path is not None

    @property
    def tier(self) -> Tier:
        if self._memory is not None:
            return Tier.DEVICE
        return Tier.DISK if self._path is not None else Tier.HOST

    @property
    def num_tokens(self) -> int:
        return self._num_tokens

    @property
    def num_bytes(self) -> int:
        return self._num_tokens * self._layout.bytes_per_token

    def to_host(self) -> None:
        if self._memory is not None:
            self._packed = self._pack(self._memory)
            self._memory.release()
            self._memory = None
        elif self._path is not None:
            self._packed = _read(self._path, self._layout, self._num_tokens)
            self._path.unlink(missing_ok=True)
            self._path = None

    def to_disk(self, path: Path) -> None:
        if self._path is not None:
            if path != self._path:
                self._path = self._path.replace(path)
            return
        self.to_host()
        self._write(path, self._packed, is_synced=False)
        self._path, self._packed = path, []

    def copy_to(self, path: Path) -> None:
        if self._memory is not None:
            tensors = self._pack(self._memory)
        elif self._path is not None:
            tensors = _read(self._path, self._layout, self._num_tokens)
        else:
            tensors = self._packed
        self._write(path, tensors, is_synced=True)

    def release(self) -> None:
        if self._memory is not None:
            self._memory.release()
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
        self._forget()

    def take(self, layout: KVLayout, account: KVAccount) -> DeviceKV:
        """Turn the image into the memory of a sequence, and release the image.

        No copy if the image is still on the device of `account`; otherwise this may block.

        Raises:
            SnapshotError: the image was released, is damaged, or belongs to another model.
                The image is released in this case too.
        """
        try:
            if not self.is_alive:
                raise SnapshotError("the KV image was released already")
            if layout.model != self._layout.model or layout.groups != self._layout.groups:
                raise SnapshotError("the KV image belongs to another model or number format")
            if self._memory is not None and self._memory.account is account:
                memory, self._memory = self._memory, None
                return memory
            self.to_host()
            memory = DeviceKV(layout, account)
            memory.reserve(self._num_tokens + _BLOCK)
            for new, old in zip(memory.tensors, self._packed, strict=True):
                new[:, :, : self._num_tokens] = old
            memory.length = self._num_tokens
            return memory
        finally:
            self.release()

    def _pack(self, memory: DeviceKV) -> list[Tensor]:
        """Copy a memory to the host, without its unused capacity."""
        return [
            tensor[:, :, : self._num_tokens].to("cpu", copy=True).contiguous()
            for tensor in memory.tensors
        ]

    def _write(self, path: Path, tensors: list[Tensor], *, is_synced: bool) -> None:
        """Write a file that appears under its name only once it is complete."""
        named = {f"group.{i}": tensor for i, tensor in enumerate(tensors)}
        num_tokens = str(self._num_tokens)
        about = {"format": FORMAT, "model": self._layout.model, "num_tokens": num_tokens}
        partial = path.with_name(path.name + ".partial")
        try:
            make_file(partial)  # private to the user: the KV cache encodes prompts and answers
            save_file(named, partial, about)
            tighten(partial)
            if is_synced:
                with partial.open("rb+") as file:
                    os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _forget(self) -> None:
        self._memory, self._packed, self._path, self.companion = None, [], None, None


def _read_header(path: Path, layout: KVLayout) -> int:
    """Check that an image's file is of this model; return its number of tokens."""
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            num_tokens = int(about.get("num_tokens", -1))
    except (OSError, SafetensorError, ValueError) as exc:
        raise SnapshotError(f"cannot read the KV image {path.name}: {exc}") from exc
    if about.get("format") != FORMAT or about.get("model") != layout.model:
        raise SnapshotError(f"the KV image {path.name} belongs to another model or number format")
    return num_tokens


def _read(path: Path, layout: KVLayout, num_tokens: int) -> list[Tensor]:
    if _read_header(path, layout) != num_tokens:
        raise SnapshotError(f"the KV image {path.name} was changed")
    try:
        with safe_open(path, "pt") as file:
            tensors = [file.get_tensor(f"group.{i}") for i in range(len(layout.groups))]
    except (OSError, SafetensorError) as exc:
        raise SnapshotError(f"cannot read the KV image {path.name}: {exc}") from exc
    for tensor, (planes, heads, dim) in zip(tensors, layout.groups, strict=True):
        if tuple(tensor.shape) != (planes, heads, num_tokens, dim) or tensor.dtype != layout.dtype:
            raise SnapshotError(f"the KV image {path.name} has another shape than the model's")
    return tensors
