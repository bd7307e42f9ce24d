"""Turn the encoder's patch features into vectors of the backbone's width.

In: packed features (t w) of several pictures, their grids (i 2). Out: packed vectors (t' d) and their grids; t' = t unless patches are merged.
Source: the two-layer projector of LLaVA-1.5 (arXiv 2310.03744); merging neighbours is the pixel shuffle of Idefics3 (arXiv 2408.12637).
`ConnectorConfig.grid` says what the connector does to the layout, so that data can count the slots of a picture before any weight exists.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from encoders.protocol import Features


@dataclass(frozen=True, kw_only=True)
class ConnectorConfig:
    """How patch features become vectors of the backbone's width."""

    merge: int = 1  # side of the square of neighbouring patches that becomes one vector
    hidden: int | None = None  # width of the middle layer; None: the backbone's width

    def __post_init__(self) -> None:
        if self.merge < 1:
            raise ValueError(
                f"connector.merge is the side of a square of patches and must be at least 1, got {self.merge}"
            )
        if self.hidden is not None and self.hidden < 1:
            raise ValueError(f"connector.hidden must be a positive width or null for the backbone's, got {self.hidden}")

    def grid(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of the vectors that come out for an encoder grid of that size."""
        if rows % self.merge or columns % self.merge:
            raise ValueError(
                f"connector.merge is {self.merge} but the encoder's grid is {rows} x {columns}; "
                f"choose a picture size whose grid divides by {self.merge}, or another merge"
            )
        return rows // self.merge, columns // self.merge


class Connector(nn.Module):
    """Merge neighbouring patches, normalise, project twice."""

    def __init__(self, config: ConnectorConfig, encoder_width: int, width: int) -> None:
        super().__init__()
        self.config = config
        merged_width = encoder_width * config.merge**2
        hidden = config.hidden or width
        self.norm = nn.LayerNorm(merged_width)
        self.up_proj = nn.Linear(merged_width, hidden)
        self.down_proj = nn.Linear(hidden, width)

    def forward(self, features: Features) -> Float[Tensor, "t d"]:
        """Vectors of all pictures, one picture after another, each in reading order."""
        vectors = features.vectors
        if self.config.merge > 1:
            vectors = torch.cat(
                [self._merge(part, *grid) for part, grid in zip(features.split(), features.grids.tolist(), strict=True)]
            )
        return self.down_proj(nn.functional.gelu(self.up_proj(self.norm(vectors))))

    def _merge(self, vectors: Float[Tensor, "p w"], rows: int, columns: int) -> Float[Tensor, "q r"]:
        side = self.config.merge
        merged_rows, merged_columns = self.config.grid(rows, columns)
        squares = vectors.view(merged_rows, side, merged_columns, side, -1).transpose(1, 2)
        return squares.reshape(merged_rows * merged_columns, -1)
