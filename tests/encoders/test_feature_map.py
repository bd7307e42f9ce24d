"""Layers of a setting, and maps joined on the finest grid."""

import pytest
import torch

from encoders.feature_map import as_layers, join_maps, joined_grid


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ([], "layer must be an int"),
        ("last", "got 'last'"),
        (True, "got True"),
        ([-1, 2.0], "a list of ints"),
        ([-2, -2], "names a layer twice"),
    ],
)
def test_a_layer_that_is_none_is_refused(layer: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_layers(layer)


def test_maps_are_concatenated_in_order_on_the_finest_grid() -> None:
    fine, coarse = torch.randn(2, 3, 4, 6), torch.tensor([[0.0, 1.0]]).expand(2, 1, 1, 2)
    joined = join_maps([coarse, fine])
    assert joined.shape == (2, 4, *joined_grid([(1, 2), (4, 6)]))
    assert torch.equal(joined[:, 1:], fine)
    # Bilinear between the centres of the two coarse cells, which lie at 1/4 and 3/4 of the picture; constant outside.
    centres = (torch.arange(6) + 0.5) / 6
    expected = ((centres - 0.25) / 0.5).clamp(0, 1)
    torch.testing.assert_close(joined[:, 0], expected.expand(2, 4, 6))
