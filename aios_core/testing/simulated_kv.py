"""The KV memory of a simulated device, counted in tokens.

Sequences hold their memory until they release it. Idle images (suspended sequences,
contexts of agents that wait for a tool) stay as long as the memory is not needed. Then
the least recently used one makes room first, block by block from its end, as in the
prefix cache of vLLM. A run that resumes from what is left computes the rest again.

Locking: images may be moved to host or disk by any thread, while the core's loop
makes room; `_lock` guards the set of images on the device and their sum.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from threading import Lock

from aios_core.errors import KernelBug
from aios_core.snapshot import Tier


class DeviceMemory:
    """The KV memory of one simulated device, and its use.

    Invariants (see `check`): sequences and images together never exceed the
    capacity; an image is counted here exactly while its tier is `DEVICE`.
    """

    def __init__(self, capacity: int, bytes_per_token: int, block_tokens: int = 1) -> None:
        self.capacity = capacity
        self.bytes_per_token = bytes_per_token
        self.block_tokens = block_tokens
        self.held = 0  # by sequences
        self.num_evicted = 0  # tokens of idle images
        self._swapped = 0  # since `pop_swapped` asked last
        self._lock = Lock()
        self._images: dict[int, SimulatedKV] = {}  # by identity, the oldest first
        self._image_tokens = 0

    def __repr__(self) -> str:
        return (
            f"<DeviceMemory {self.held} held, {self._image_tokens} in {len(self._images)} images, "
            f"of {self.capacity} tokens>"
        )

    @property
    def used(self) -> int:
        """Tokens that hold memory, idle images included."""
        return self.held + self._image_tokens

    def take(self, num_tokens: int) -> bool:
        """Give a sequence room, at the cost of idle images. False if there is not enough."""
        with self._lock:
            if self.held + num_tokens > self.capacity:
                return False
            while (excess := self.used + num_tokens - self.capacity) > 0:
                self._evict(next(iter(self._images.values())), excess)
            self.held += num_tokens
            return True

    def give(self, num_tokens: int) -> None:
        """Take room back from a sequence."""
        self.held -= num_tokens

    def keep(self, num_tokens: int) -> SimulatedKV:
        """Make an idle image of room that a sequence has just given back."""
        image = SimulatedKV(self, num_tokens)
        with self._lock:
            self._images[id(image)] = image
            self._image_tokens += num_tokens
        return image

    def claim(self, image: SimulatedKV) -> int:
        """End an image in order to use it. Returns the tokens that it still held."""
        with self._lock:
            num_tokens = image.num_tokens
            if image.tier is not Tier.DEVICE:
                self._swapped += num_tokens
        image.release()
        return num_tokens

    def pop_swapped(self) -> int:
        """Tokens that moved to or from the device since this was asked last."""
        with self._lock:
            swapped, self._swapped = self._swapped, 0
            return swapped

    def move_out(self, image: SimulatedKV) -> None:
        """An image leaves for another tier."""
        with self._lock:
            if self._images.pop(id(image), None) is not None:
                self._image_tokens -= image.num_tokens
                self._swapped += image.num_tokens

    def forget(self, image: SimulatedKV) -> None:
        """An image is no longer wanted."""
        with self._lock:
            self._discard(image)

    def clear(self) -> None:
        """Drop every image; sequences have given back what they held."""
        with self._lock:
            for image in tuple(self._images.values()):
                self._discard(image)

    def check(self) -> None:
        """Raise `KernelBug` unless every invariant holds."""
        with self._lock:
            images = tuple(self._images.values())
            if sum(image.num_tokens for image in images) != self._image_tokens:
                raise KernelBug(f"{self!r}: images sum up to something else")
            if any(image.tier is not Tier.DEVICE for image in images):
                raise KernelBug(f"{self!r}: counts an image that has left the device")
            if not 0 <= self.used <= self.capacity or self.held < 0:
                raise KernelBug(f"{self!r}: out of bounds")

    def _evict(self, image: SimulatedKV, num_tokens: int) -> None:
        """Take blocks from the end of an image, at least so many tokens if it has them."""
        in_blocks = -(-num_tokens // self.block_tokens) * self.block_tokens
        evicted = min(in_blocks, image.num_tokens)
        self.num_evicted += evicted
        if evicted == image.num_tokens:
            self._discard(image)
            return
        image.num_tokens -= evicted
        self._image_tokens -= evicted

    def _discard(self, image: SimulatedKV) -> None:
        if self._images.pop(id(image), None) is not None:
            self._image_tokens -= image.num_tokens
        image.num_tokens = 0


class SimulatedKV:
    """A KV image that holds no tensors. Implements `aios_core.snapshot.KVImage`.

    `num_tokens` falls when the image makes room, and is 0 once it is evicted or released.
    On disk it is a valid safetensors file without tensors.
    """

    __slots__ = ("_bytes", "_memory", "_path", "_tier", "num_tokens")

    def __init__(self, memory: DeviceMemory, num_tokens: int) -> None:
        self.num_tokens = num_tokens
        self._bytes = num_tokens * memory.bytes_per_token
        self._memory = memory
        self._tier = Tier.DEVICE
        self._path: Path | None = None

    def __repr__(self) -> str:
        return f"<SimulatedKV of {self.num_tokens} tokens in tier {self._tier.name}>"

    @property
    def memory(self) -> DeviceMemory:
        """The device from which the image was taken."""
        return self._memory

    @property
    def tier(self) -> Tier:
        return self._tier

    @property
    def num_bytes(self) -> int:
        return self._bytes

    def to_host(self) -> None:
        self._memory.move_out(self)
        self._tier = Tier.HOST
        self._unlink()

    def to_disk(self, path: Path) -> None:
        self._memory.move_out(self)
        self.copy_to(path)
        self._tier, self._path = Tier.DISK, path

    def copy_to(self, path: Path) -> None:
        header = json.dumps({"__metadata__": {"num_tokens": str(self.num_tokens)}}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header)

    def release(self) -> None:
        self._memory.forget(self)
        self._unlink()

    def _unlink(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None
