"""Turn the encoder's patch features into vectors of the backbone's width.

In: packed features (t w) of several crops, their grids (i 2). Out: packed vectors (t' d), crop by crop, each in reading order,
with the learned markers between them. `ConnectorConfig` says what becomes of a grid, so that data can count the slots of a
picture before any weight exists. Sources: the two-layer projector of LLaVA-1.5 (arXiv 2310.03744); merging neighbours is the
pixel shuffle of Idefics3 (arXiv 2408.12637), their mean the pooling of DeCo (arXiv 2405.20985); for `resampler` see resampler.py.
"""

from dataclasses import dataclass
from itertools import groupby
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from encoders.protocol import Features
from vlm.resampler import Resampler

ConnectorKind = Literal["mlp", "linear", "average", "resampler"]


@dataclass(frozen=True, kw_only=True)
class ConnectorConfig:
    """How patch features become vectors of the backbone's width."""

    merge: int = 1  # side of the square of neighbouring patches that becomes one vector
    hidden: int | None = None  # width of the middle layer; None: the backbone's width
    # How a square becomes a vector. mlp: side by side, through two layers. linear: side by side, through one. average: their
    # mean, through two layers. resampler: whatever the grid, learned queries read it.
    kind: ConnectorKind = "mlp"
    num_vectors: int | None = None  # resampler: of each crop
    row_end: bool = False  # a learned vector follows each row
    crop_end: bool = False  # a learned vector follows each crop: each tile, or the picture if it has one crop

    def __post_init__(self) -> None:
        if self.kind not in get_args(ConnectorKind):
            raise ValueError(f"unknown connector.kind {self.kind!r}; known: {', '.join(get_args(ConnectorKind))}")
        if self.merge < 1:
            raise ValueError(
                f"connector.merge is the side of a square of patches and must be at least 1, got {self.merge}"
            )
        if self.hidden is not None and self.hidden < 1:
            raise ValueError(f"connector.hidden must be a positive width or null for the backbone's, got {self.hidden}")
        if self.kind == "linear" and self.hidden is not None:
            raise ValueError(
                f"connector.hidden is {self.hidden}, but kind linear has no middle layer; leave it out, or use kind mlp"
            )
        if self.kind != "resampler":
            if self.num_vectors is not None:
                raise ValueError(
                    f"connector.num_vectors is of kind resampler, but kind is {self.kind}; leave it out, "
                    "and set merge for fewer vectors"
                )
            return
        if self.merge != 1:
            raise ValueError(
                f"connector.merge is {self.merge}, but kind resampler reads every patch; leave it out, "
                "and set num_vectors for fewer vectors"
            )
        if self.num_vectors is None or self.num_vectors < 1:
            raise ValueError(
                f"connector.num_vectors is how many vectors a crop becomes and must be at least 1 for kind resampler, "
                f"got {self.num_vectors}; 64 is usual"
            )

    def grid(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of the vectors that come out for an encoder grid of that size, without markers."""
        if self.num_vectors is not None:
            return 1, self.num_vectors
        if rows % self.merge or columns % self.merge:
            raise ValueError(
                f"connector.merge is {self.merge} but the encoder's grid is {rows} x {columns}; "
                f"choose a picture size whose grid divides by {self.merge}, or another merge"
            )
        return rows // self.merge, columns // self.merge


class Connector(nn.Module):
    """Merge neighbouring patches, normalise and project; or let learned queries read them. Then place the markers."""

    def __init__(self, config: ConnectorConfig, encoder_width: int, width: int) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden or width
        if config.num_vectors is not None:
            self.resampler = Resampler(config.num_vectors, encoder_width, hidden, width)
        else:
            merged_width = encoder_width * (1 if config.kind == "average" else config.merge**2)
            self.norm = nn.LayerNorm(merged_width)
            if config.kind == "linear":
                self.proj = nn.Linear(merged_width, width)
            else:
                self.up_proj = nn.Linear(merged_width, hidden)
                self.down_proj = nn.Linear(hidden, width)
        # As long as a token's embedding, so that they begin among what the backbone reads.
        self.row_end = nn.Parameter(torch.randn(width) * width**-0.5) if config.row_end else None
        self.crop_end = nn.Parameter(torch.randn(width) * width**-0.5) if config.crop_end else None

    def forward(self, features: Features) -> Float[Tensor, "t d"]:
        """Vectors and markers of all crops, one crop after another, each in reading order."""
        runs = _runs(features)
        if self.config.num_vectors is not None:
            vectors = torch.cat([self.resampler(run) for run in runs]).flatten(0, 1)
        elif self.config.merge == 1:
            vectors = self._project(features.vectors)
        else:
            vectors = self._project(torch.cat([self._merge(run) for run in runs]))
        return self._mark(vectors, runs)

    def _merge(self, run: Float[Tensor, "i rows columns w"]) -> Float[Tensor, "q merged"]:
        """The squares of each crop, as their patches side by side or as the mean of them."""
        side, (images, rows, columns, width) = self.config.merge, run.shape
        merged_rows, merged_columns = self.config.grid(rows, columns)
        squares = run.reshape(images, merged_rows, side, merged_columns, side, width).transpose(2, 3)
        if self.config.kind == "average":
            return squares.mean(dim=(3, 4)).flatten(0, 2)
        return squares.reshape(images * merged_rows * merged_columns, side * side * width)

    def _project(self, vectors: Float[Tensor, "q merged"]) -> Float[Tensor, "q d"]:
        if self.config.kind == "linear":
            return self.proj(self.norm(vectors))
        return self.down_proj(nn.functional.gelu(self.up_proj(self.norm(vectors))))

    def _mark(self, vectors: Float[Tensor, "q d"], runs: list[Tensor]) -> Float[Tensor, "t d"]:
        """Put a marker behind each row and each crop, where the config has them."""
        if self.row_end is None and self.crop_end is None:
            return vectors
        grids = [(len(run), *self.config.grid(*run.shape[1:3])) for run in runs]
        marked = []
        for part, (images, rows, columns) in zip(
            vectors.split([images * rows * columns for images, rows, columns in grids]), grids, strict=True
        ):
            crops = part.unflatten(0, (images, rows, columns))
            if self.row_end is not None:
                crops = torch.cat([crops, self.row_end.to(part.dtype).expand(images, rows, 1, -1)], dim=2)
            crops = crops.flatten(1, 2)
            if self.crop_end is not None:
                crops = torch.cat([crops, self.crop_end.to(part.dtype).expand(images, 1, -1)], dim=1)
            marked.append(crops.flatten(0, 1))
        return torch.cat(marked)


def _runs(features: Features) -> list[Float[Tensor, "i rows columns w"]]:
    """Neighbouring crops of equal grids as one tensor: pictures of one size need one step, whatever their number."""
    runs = [
        (grid, len(list(same))) for grid, same in groupby((rows, columns) for rows, columns in features.grids.tolist())
    ]
    parts = features.vectors.split([count * rows * columns for (rows, columns), count in runs])
    return [part.unflatten(0, (count, *grid)) for part, (grid, count) in zip(parts, runs, strict=True)]
