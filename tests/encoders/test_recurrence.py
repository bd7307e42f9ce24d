"""Recurrent layers on the meta device."""

from typing import Any

import pytest
import torch
from torch import nn

from encoders.recurrence import without_steps

KINDS: list[tuple[type[nn.RNNBase], dict[str, Any]]] = [
    (nn.LSTM, {"batch_first": True, "bidirectional": True}),
    (nn.LSTM, {"proj_size": 3, "num_layers": 2}),
    (nn.GRU, {"batch_first": True}),
    (nn.RNN, {"num_layers": 2, "bidirectional": True}),
]


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("shape", [(2, 7, 5), (7, 5)])
def test_shapes_and_dependencies_are_those_of_the_real_layer(
    kind: type[nn.RNNBase], options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    real = kind(5, 4, **options)
    expected, states = real(torch.randn(shape))
    with torch.device("meta"):
        layer = kind(5, 4, **options)
    given = torch.empty(shape, device="meta", requires_grad=True)
    with without_steps():
        outputs, found = layer(given)
    assert outputs.shape == expected.shape
    states, found = (one if isinstance(one, tuple) else (one,) for one in (states, found))
    assert [one.shape for one in found] == [one.shape for one in states]
    # Raises where something is not reached.
    torch.autograd.grad(outputs.sum(), [given, *layer.parameters()])


def test_data_go_through_the_real_layer() -> None:
    layer, given = nn.LSTM(5, 4), torch.randn(3, 2, 5)
    expected, _ = layer(given)
    with without_steps():
        outputs, _ = layer(given)
    assert torch.equal(outputs, expected)
    with without_steps():
        pass
    assert nn.LSTM.forward.__module__ == "torch.nn.modules.rnn"
