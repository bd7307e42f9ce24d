"""Where the documents of a packed row begin and end.

A row of `n` vectors holds whole documents one after another, without padding. `Documents` says how long each is; the
same class describes a row of concepts. Lengths are host integers, so that nothing has to wait for the device to know a
shape; the index tensors are built once and shared by all layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor


def upload(host: Tensor, device: torch.device | str | None) -> Tensor:
    """The same values on `device`, without a wait for what the device has yet to do: a copy from pageable memory is one."""
    if device is None or torch.device(device).type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class Buckets:
    """Documents of about equal length side by side: padded blocks that one attention call each can work on."""

    shapes: tuple[tuple[int, int], ...]  # (documents, padded length) of each block
    place: Int[Tensor, " n"]  # where each packed row goes in the blocks, laid end to end
    num_places: int
    is_packed: bool  # True where the blocks, laid end to end, are the packed row itself

    @cached_property
    def plan(self) -> Int[Tensor, " _"]:
        """`is_packed` and the shapes one after another, on the CPU: torch.compile makes no graph for each of them."""
        return torch.tensor([int(self.is_packed), *(size for shape in self.shapes for size in shape)])


@dataclass(frozen=True, eq=False)
class Documents:
    """Lengths of the documents of one packed row; build it with `Documents.from_lengths([3, 5])`."""

    lengths: tuple[int, ...]
    starts: Int[Tensor, " s"]  # index of each document's first row

    @classmethod
    def from_lengths(cls, lengths: Sequence[int], device: torch.device | str | None = None) -> "Documents":
        """Describe a row that holds documents of these lengths, in this order.

        Raises:
            ValueError: there is no document, or one is empty.
        """
        host = tuple(int(length) for length in lengths)
        if not host or min(host) < 1:
            raise ValueError(f"a packed row needs one document or more, each of at least 1 token; got lengths {host}")
        ends = np.cumsum(host)
        return cls(host, upload(torch.from_numpy(ends - np.asarray(host)), device))

    def to(self, device: torch.device | str) -> "Documents":
        """The same documents with their index tensors on `device`; itself where they already are."""
        if self.starts.device == torch.device(device):
            return self
        return Documents.from_lengths(self.lengths, device)

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)

    @property
    def num_documents(self) -> int:
        return len(self.lengths)

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @cached_property
    def _device_lengths(self) -> Int[Tensor, " s"]:
        return upload(torch.tensor(self.lengths), self.starts.device)

    @cached_property
    def ends(self) -> Int[Tensor, " s"]:
        """Index just past each document's last row."""
        return self.starts + self._device_lengths

    @cached_property
    def boundaries(self) -> Int[Tensor, " s_plus_1"]:
        """Starts and the end of the row, int32: what variable-length attention kernels ask for."""
        return torch.cat([self.starts, self.ends[-1:]]).to(torch.int32)

    @cached_property
    def document_of_token(self) -> Int[Tensor, " n"]:
        index = torch.arange(self.num_documents, device=self.starts.device)
        return index.repeat_interleave(self._device_lengths, output_size=self.num_tokens)

    @cached_property
    def offset_in_document(self) -> Int[Tensor, " n"]:
        """Position of each row within its document, from 0."""
        count = torch.arange(self.num_tokens, device=self.starts.device)
        return count - self.starts[self.document_of_token]

    @cached_property
    def is_start(self) -> Bool[Tensor, " n"]:
        """True at each document's first row."""
        return self.offset_in_document == 0

    @cached_property
    def buckets(self) -> Buckets:
        """Documents sorted by length and cut into blocks in which padding stays below a quarter, or 16 rows.

        Few blocks mean few calls: 128 documents of 10 to 60 tokens make four.
        """
        lengths = np.asarray(self.lengths)
        order = np.argsort(-lengths, kind="stable")
        shapes: list[tuple[int, int]] = []
        document_place = np.empty_like(lengths)
        num_places, first = 0, 0
        falling = lengths[order]
        while first < len(order):
            width = int(falling[first])
            shortest = min(width / 1.25, width - 16)
            last = int(np.searchsorted(-falling, -shortest, side="right"))
            count = last - first
            document_place[order[first:last]] = num_places + width * np.arange(count)
            shapes.append((count, width))
            num_places += count * width
            first = last
        starts = np.cumsum(lengths) - lengths
        place = np.arange(lengths.sum()) + np.repeat(document_place - starts, lengths)
        is_packed = num_places == len(place) and bool((place == np.arange(len(place))).all())
        return Buckets(tuple(shapes), upload(torch.from_numpy(place), self.starts.device), num_places, is_packed)
