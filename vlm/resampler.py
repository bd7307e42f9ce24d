"""Learned queries that read all patches of a crop: any grid becomes the same number of vectors.

In: patch features of crops of one size (i rows columns w). Out: (i k d). Source: the single cross-attention layer of Qwen-VL
(arXiv 2308.12966); as there, keys are told where their patch lies, here by waves over the crop's sides, that fit any grid.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

HEAD_WIDTH = 64
NUM_WAVES = 8  # for each side, as sine and cosine; the shortest is a 64th of the side long


class Resampler(nn.Module):
    """Cross attention from learned queries to patches, then two layers to the backbone's width."""

    def __init__(self, num_vectors: int, encoder_width: int, hidden: int, width: int) -> None:
        super().__init__()
        # As many heads of about 64 numbers as divide the width evenly.
        self.num_heads = next(heads for heads in range(max(1, hidden // HEAD_WIDTH), 0, -1) if hidden % heads == 0)
        self.queries = nn.Parameter(torch.randn(num_vectors, hidden) * hidden**-0.5)
        self.norm = nn.LayerNorm(encoder_width)
        self.query_norm = nn.LayerNorm(hidden)
        self.q_proj = nn.Linear(hidden, hidden)
        self.k_proj = nn.Linear(encoder_width, hidden, bias=False)  # what all keys share changes no softmax
        self.v_proj = nn.Linear(encoder_width, hidden)
        self.place_proj = nn.Linear(4 * NUM_WAVES, hidden, bias=False)
        self.out_norm = nn.LayerNorm(hidden)
        self.up_proj = nn.Linear(hidden, hidden)
        self.down_proj = nn.Linear(hidden, width)

    def forward(self, features: Float[Tensor, "i rows columns w"]) -> Float[Tensor, "i k d"]:
        """The vectors of each crop, one for each query."""
        places = _waves(features.shape[1], features.shape[2], features)
        patches = self.norm(features.flatten(1, 2))
        queries = self._heads(self.q_proj(self.query_norm(self.queries))[None]).expand(len(features), -1, -1, -1)
        keys = self._heads(self.k_proj(patches) + self.place_proj(places))
        read = functional.scaled_dot_product_attention(queries, keys, self._heads(self.v_proj(patches)))
        mixed = self.queries + read.transpose(1, 2).flatten(2)
        return self.down_proj(functional.gelu(self.up_proj(self.out_norm(mixed))))

    def _heads(self, vectors: Float[Tensor, "i q hidden"]) -> Float[Tensor, "i h q k"]:
        return vectors.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


def _waves(rows: int, columns: int, like: Tensor) -> Float[Tensor, "p waves"]:
    """Where the middle of each patch lies, as sines and cosines over the height and the width of the crop."""
    pace = math.pi * 64 ** (torch.arange(NUM_WAVES, device=like.device) / (NUM_WAVES - 1))
    sides = [
        ((torch.arange(count, device=like.device) + 0.5) / count)[:, None] * pace  # turns with the share of the side
        for count in (rows, columns)
    ]
    down, across = (torch.cat([angle.sin(), angle.cos()], dim=1) for angle in sides)
    grid = torch.cat([down[:, None].expand(-1, columns, -1), across[None].expand(rows, -1, -1)], dim=2)
    return grid.flatten(0, 1).to(like.dtype)
