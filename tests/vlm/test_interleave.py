import pytest
import torch

from vlm.interleave import interleave


def test_image_vectors_fill_their_slots_in_reading_order() -> None:
    text, image = torch.zeros(6, 2), torch.arange(1.0, 7.0).view(3, 2)
    is_image = torch.tensor([False, True, False, True, True, False])
    out = interleave(text, image, is_image, 3)
    by_loop = text.clone()
    for vector, slot in zip(image, [1, 3, 4], strict=True):
        by_loop[slot] = vector
    assert torch.equal(out, by_loop)


def test_gradients_reach_the_vectors_and_not_the_placeholders() -> None:
    text, image = torch.zeros(3, 2, requires_grad=True), torch.ones(1, 2, requires_grad=True)
    interleave(text, image, torch.tensor([False, True, False]), 1).sum().backward()
    assert text.grad is not None
    assert text.grad.tolist() == [[1, 1], [0, 0], [1, 1]]
    assert image.grad is not None
    assert image.grad.tolist() == [[1, 1]]


def test_a_wrong_number_of_vectors_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="2 image slots but the encoder and connector gave 1 vectors"):
        interleave(torch.zeros(3, 2), torch.zeros(1, 2), torch.tensor([True, True, False]), 2)
