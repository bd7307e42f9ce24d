import pytest
import torch

from encoders.protocol import Features
from vlm.connector import Connector, ConnectorConfig


def features(*grids: tuple[int, int], width: int = 3) -> Features:
    total = sum(rows * columns for rows, columns in grids)
    return Features(vectors=torch.randn(total, width), grids=torch.tensor(grids))


def test_merging_gathers_each_square_of_patches_in_reading_order() -> None:
    connector = Connector(ConnectorConfig(merge=2), encoder_width=1, width=4)
    numbers = torch.arange(8.0).view(8, 1)  # rows of 4: 0 1 2 3 / 4 5 6 7
    assert connector._merge(numbers, 2, 4).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_pictures_of_different_grids_give_the_vectors_of_each_alone() -> None:
    torch.manual_seed(0)
    connector = Connector(ConnectorConfig(merge=2), encoder_width=3, width=5)
    both = features((2, 4), (4, 2))
    first = Features(vectors=both.vectors[:8], grids=both.grids[:1])
    second = Features(vectors=both.vectors[8:], grids=both.grids[1:])
    torch.testing.assert_close(connector(both), torch.cat([connector(first), connector(second)]))


def test_the_layout_says_how_many_vectors_come_out() -> None:
    for merge in (1, 2, 3):
        config = ConnectorConfig(merge=merge)
        rows, columns = config.grid(6, 12)
        assert Connector(config, 3, 5)(features((6, 12))).shape == (rows * columns, 5)


def test_a_grid_that_does_not_divide_is_refused_with_both_sizes() -> None:
    with pytest.raises(ValueError, match=r"connector.merge is 2 but the encoder's grid is 3 x 4"):
        ConnectorConfig(merge=2).grid(3, 4)
