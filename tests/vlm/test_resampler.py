import math

import pytest
import torch
from torch import Tensor

from vlm.resampler import NUM_WAVES, Resampler


def read_by_loop(resampler: Resampler, image: Tensor) -> Tensor:
    """One crop (rows columns w): every query, head and patch by itself."""
    rows, columns, _ = image.shape
    keys, values = [], []
    for row in range(rows):
        for column in range(columns):
            patch = resampler.norm(image[row, column])
            wave = []
            for share in ((row + 0.5) / rows, (column + 0.5) / columns):
                pace = [math.pi * 64 ** (k / (NUM_WAVES - 1)) for k in range(NUM_WAVES)]
                wave += [math.sin(share * p) for p in pace] + [math.cos(share * p) for p in pace]
            keys.append(resampler.k_proj(patch) + resampler.place_proj(torch.tensor(wave)))
            values.append(resampler.v_proj(patch))
    found = []
    for query in resampler.queries:
        asked = resampler.q_proj(resampler.query_norm(query)).chunk(resampler.num_heads)
        read = []
        for head, part in enumerate(asked):
            own = [key.chunk(resampler.num_heads)[head] for key in keys]
            share = torch.stack([part @ key / math.sqrt(len(part)) for key in own]).softmax(0)
            read.append(sum(s * v.chunk(resampler.num_heads)[head] for s, v in zip(share, values, strict=True)))
        mixed = query + torch.cat(read)  # type: ignore[arg-type]
        hidden = torch.nn.functional.gelu(resampler.up_proj(resampler.out_norm(mixed)))
        found.append(resampler.down_proj(hidden))
    return torch.stack(found)


@pytest.mark.parametrize(("hidden", "heads"), [(12, 1), (128, 2), (130, 2), (200, 2)])
def test_queries_read_as_a_loop_over_heads_and_patches_does(hidden: int, heads: int) -> None:
    torch.manual_seed(0)
    resampler = Resampler(num_vectors=3, encoder_width=6, hidden=hidden, width=7)
    assert resampler.num_heads == heads
    crops = torch.randn(2, 2, 5, 6)
    expected = torch.stack([read_by_loop(resampler, crop) for crop in crops])
    torch.testing.assert_close(resampler(crops), expected, atol=1e-5, rtol=1e-5)


def test_where_a_patch_lies_matters() -> None:
    torch.manual_seed(0)
    resampler = Resampler(num_vectors=3, encoder_width=6, hidden=12, width=7)
    crop = torch.randn(1, 2, 5, 6)
    assert not torch.allclose(resampler(crop), resampler(crop.flip(2)), atol=1e-4)
    assert not torch.allclose(resampler(crop), resampler(crop.flip(1)), atol=1e-4)
