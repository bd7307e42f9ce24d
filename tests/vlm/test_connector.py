from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from encoders.protocol import Features
from vlm.connector import Connector, ConnectorConfig

KINDS = {
    "mlp": ConnectorConfig(),
    "mlp 2": ConnectorConfig(merge=2, hidden=7),
    "linear 3": ConnectorConfig(kind="linear", merge=3),
    "average 2": ConnectorConfig(kind="average", merge=2),
    "resampler": ConnectorConfig(kind="resampler", num_vectors=4, hidden=8),
}
GRIDS = ((6, 12), (12, 6), (6, 6), (6, 6), (18, 6))


def features(*grids: tuple[int, int], width: int = 3) -> Features:
    total = sum(rows * columns for rows, columns in grids)
    return Features(vectors=torch.randn(total, width), grids=torch.tensor(grids))


def squares_by_loop(connector: Connector, image: Tensor) -> list[Tensor]:
    """Each square of one crop (rows columns w), cut out by hand and projected by itself."""
    side, found = connector.config.merge, []
    for row in range(0, image.shape[0], side):
        for column in range(0, image.shape[1], side):
            square = [image[row + down, column + across] for down in range(side) for across in range(side)]
            merged = sum(square) / side**2 if connector.config.kind == "average" else torch.cat(square)
            normed = connector.norm(merged)
            if connector.config.kind == "linear":
                found.append(connector.proj(normed))
            else:
                found.append(connector.down_proj(nn.functional.gelu(connector.up_proj(normed))))
    return found


@pytest.mark.parametrize("name", [name for name in KINDS if name != "resampler"])
@pytest.mark.parametrize(("row_end", "crop_end"), [(False, False), (True, False), (False, True), (True, True)])
def test_each_square_is_projected_by_itself_and_markers_stand_behind_rows_and_crops(
    name: str, row_end: bool, crop_end: bool
) -> None:
    torch.manual_seed(0)
    config = replace(KINDS[name], row_end=row_end, crop_end=crop_end)
    connector, given = Connector(config, encoder_width=3, width=5), features(*GRIDS)
    expected = []
    for (rows, columns), part in zip(GRIDS, given.split(), strict=True):
        vectors = iter(squares_by_loop(connector, part.view(rows, columns, -1)))
        merged_rows, merged_columns = config.grid(rows, columns)
        for _ in range(merged_rows):
            expected += [next(vectors) for _ in range(merged_columns)]
            if connector.row_end is not None:
                expected.append(connector.row_end)
        if connector.crop_end is not None:
            expected.append(connector.crop_end)
    torch.testing.assert_close(connector(given), torch.stack(expected))


@pytest.mark.parametrize("name", KINDS)
def test_pictures_of_different_grids_give_the_vectors_of_each_alone(name: str) -> None:
    torch.manual_seed(0)
    connector = Connector(replace(KINDS[name], row_end=True, crop_end=True), encoder_width=3, width=5)
    together = features(*GRIDS)
    alone = [Features(part, torch.tensor([grid])) for part, grid in zip(together.split(), GRIDS, strict=True)]
    torch.testing.assert_close(connector(together), torch.cat([connector(one) for one in alone]))


@pytest.mark.parametrize("name", KINDS)
def test_every_parameter_learns(name: str) -> None:
    connector = Connector(replace(KINDS[name], row_end=True, crop_end=True), encoder_width=3, width=5)
    connector(features(*GRIDS)).square().sum().backward()
    assert [key for key, p in connector.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_parameters_keep_the_names_of_earlier_model_folders() -> None:
    names = {name for name, _ in Connector(ConnectorConfig(), 3, 5).named_parameters()}
    assert names == {f"{part}.{of}" for part in ("norm", "up_proj", "down_proj") for of in ("weight", "bias")}


def test_a_grid_that_does_not_divide_is_refused_with_both_sizes() -> None:
    for kind in ("mlp", "linear", "average"):
        with pytest.raises(ValueError, match=r"connector.merge is 2 but the encoder's grid is 3 x 4"):
            replace(ConnectorConfig(), kind=kind, merge=2).grid(3, 4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"merge": 0}, "connector.merge is .* at least 1, got 0"),
        ({"hidden": 0}, "connector.hidden must be a positive width"),
        ({"kind": "linear", "hidden": 8}, "hidden is 8, but kind linear has no middle layer"),
        ({"num_vectors": 8}, "num_vectors is of kind resampler, but kind is mlp"),
        ({"kind": "resampler"}, "num_vectors is .* got None; 64 is usual"),
        ({"kind": "resampler", "num_vectors": 0}, "at least 1 for kind resampler, got 0"),
        ({"kind": "resampler", "num_vectors": 8, "merge": 2}, "merge is 2, but kind resampler reads every patch"),
    ],
)
def test_settings_that_have_no_effect_or_cannot_work_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ConnectorConfig(**settings)  # type: ignore[arg-type]


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    config = ConnectorConfig()
    object.__setattr__(config, "kind", "conv")  # as a config would: the type check of the tests stands before it
    with pytest.raises(ValueError, match=r"unknown connector.kind 'conv'; known: mlp, linear, average, resampler"):
        config.__post_init__()
