"""Raw patches, projected: the smallest encoder, trained from scratch. The template to copy for one of your own.

In: pictures (3, height, width) normalised by `spec`. Out: one vector for each patch, row by row. A module of your own
needs the same four things: `spec`, `width`, `grid` and `encode`. Name it by its path, `encoder: my_module.MyEncoder`.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from data.image import ImageSpec
from encoders.protocol import Features, encode_by_size


class PatchEncoder(nn.Module):
    """A linear map of each square patch. Where a patch lies is told by the backbone's positions (time, row, column)."""

    def __init__(self, size_px: int = 64, patch_px: int = 16, width: int = 192) -> None:
        super().__init__()
        if patch_px < 1 or size_px % patch_px:
            raise ValueError(f"size_px ({size_px}) must be a multiple of patch_px ({patch_px}); try {patch_px * 4}")
        self.spec = ImageSpec(size_px=size_px, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        self.width = width
        self.patch_px = patch_px
        self.project = nn.Conv2d(3, width, patch_px, stride=patch_px)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Whole patches only; what is left over at the right and the bottom is not seen."""
        return height // self.patch_px, width // self.patch_px

    def encode(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> Features:
        """Project the patches of each picture."""
        return encode_by_size(self, images, self.project)
