"""What a token may depend on: invariants 1, 2, 3 and 9 of the design notes, for every kind, in training and evaluation."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.vlm.backbone.kinds import (
    KINDS,
    backbone_of,
    few_long_or_many_short,
    gradients,
    places,
    some_boundaries,
    train_with,
    vectors,
)
from vlm.backbone import BackboneOutput, ConceptMoE, Documents

training_or_not = pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
every_kind = pytest.mark.parametrize("kind", KINDS)


def run(backbone: ConceptMoE, x: Tensor, lengths: list[int], closes: Tensor | None) -> BackboneOutput:
    """In training mode with these boundaries, or in evaluation mode."""
    if closes is not None:
        return train_with(backbone, x, lengths, closes)
    out = backbone.eval()(x, Documents.from_lengths(lengths))
    assert isinstance(out, BackboneOutput)
    return out


@every_kind
@training_or_not
def test_a_changed_end_changes_itself_and_nothing_before_it(kind: str, training: bool) -> None:
    """[1]"""
    backbone, x, documents = backbone_of(kind).train(training), vectors(24), Documents.from_lengths([24])
    torch.manual_seed(5)
    before = backbone(x, documents)
    for cut in (1, 8, 23):
        changed = torch.cat([x[:cut], vectors(24 - cut, seed=7)])
        torch.manual_seed(5)  # the same noise
        after = backbone(changed, documents)
        # Experts and concepts in other groups round differently, no more.
        torch.testing.assert_close(after.hidden[:cut], before.hidden[:cut], atol=1e-12, rtol=0)
        assert ((after.hidden[cut:] - before.hidden[cut:]).abs().amax(1) > 1e-3).all()
        if after.chunks is not None and before.chunks is not None:
            assert torch.equal(after.chunks.closes[:cut], before.chunks.closes[:cut])


@every_kind
@training_or_not
def test_every_prefix_of_a_document_gives_what_the_whole_gives(kind: str, training: bool) -> None:
    """[2]"""
    backbone, x = backbone_of(kind), vectors(7)
    closes = some_boundaries([7]) if training else None
    whole = run(backbone, x, [7], closes).hidden
    for length in range(1, 7):
        part = run(backbone, x[:length], [length], None if closes is None else closes[:length]).hidden
        torch.testing.assert_close(part, whole[:length], atol=1e-12, rtol=0)


@every_kind
@training_or_not
def test_no_gradient_flows_from_a_token_to_a_later_one_or_to_another_document(kind: str, training: bool) -> None:
    """[3] Exactly none: the paths do not exist, so that nothing cancels."""
    backbone, x, lengths = backbone_of(kind), vectors(8).requires_grad_(), [3, 5]
    hidden = run(backbone, x, lengths, some_boundaries(lengths) if training else None).hidden
    rows = [torch.autograd.grad(hidden[token].sum(), x, retain_graph=True)[0] for token in range(8)]
    reaches = torch.stack(rows).abs().amax(2) > 0  # (of the output, of the input)
    assert torch.equal(reaches, torch.block_diag(torch.ones(3, 3).tril(), torch.ones(5, 5).tril()).bool())


@every_kind
@training_or_not
def test_a_packed_row_gives_what_each_document_gives_alone(kind: str, training: bool) -> None:
    """[9] Vectors, boundaries, the sums behind F and G, and gradients."""
    backbone, lengths = backbone_of(kind), [6, 1, 10]
    x, out_grad = vectors(17).requires_grad_(), vectors(17, seed=3)
    closes = some_boundaries(lengths) if training else None
    packed = run(backbone, x, lengths, closes)
    packed.hidden.backward(out_grad)
    expected = gradients(backbone), x.grad
    backbone.zero_grad(set_to_none=True)
    x.grad = None
    parts = x.split(lengths)
    given = [None] * len(lengths) if closes is None else closes.split(lengths)
    alone = [run(backbone, part, [len(part)], own) for part, own in zip(parts, given, strict=True)]
    torch.testing.assert_close(torch.cat([one.hidden for one in alone]), packed.hidden, atol=1e-12, rtol=0)
    torch.cat([one.hidden for one in alone]).backward(out_grad)
    # A weight's gradient is a sum over 17 tokens of products of a size of up to a hundred.
    torch.testing.assert_close((gradients(backbone), x.grad), expected, atol=1e-9, rtol=1e-9)
    if packed.chunks is None:
        return
    chunks = [one.chunks for one in alone if one.chunks is not None]
    torch.testing.assert_close(torch.cat([one.prob for one in chunks]), packed.chunks.prob, atol=1e-12, rtol=0)
    assert torch.equal(torch.cat([one.closes for one in chunks]), packed.chunks.closes)
    counts = torch.stack([torch.tensor(one.counts) for one in chunks]).sum(0)
    assert torch.equal(counts, torch.tensor(packed.chunks.counts))


@every_kind
def test_shuffled_documents_give_shuffled_results(kind: str) -> None:
    """[9]"""
    backbone, lengths = backbone_of(kind), [6, 3, 11, 6]
    parts, positions = vectors(26).split(lengths), places(26).split(lengths)
    forth = backbone(torch.cat(parts), Documents.from_lengths(lengths), torch.cat(positions)).hidden
    back = backbone(torch.cat(parts[::-1]), Documents.from_lengths(lengths[::-1]), torch.cat(positions[::-1])).hidden
    torch.testing.assert_close(forth.split(lengths), back.split(lengths[::-1])[::-1], atol=1e-12, rtol=0)


# Without shrinking: a failure would take minutes to shrink.
@settings(max_examples=12, deadline=None, phases=[Phase.reuse, Phase.generate])
@given(
    lengths=few_long_or_many_short,
    kind=st.sampled_from(list(KINDS)),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_any_documents_with_any_boundaries_are_alone_in_their_row(
    lengths: list[int], kind: str, share: float, seed: int
) -> None:
    """[9] From one document to a hundred, of up to 300 tokens, from one concept to as many as there are tokens."""
    backbone, x = backbone_of(kind), vectors(sum(lengths), seed)
    closes = some_boundaries(lengths, share, seed)
    with torch.no_grad():
        packed = run(backbone, x, lengths, closes).hidden.split(lengths)
        for index in {0, len(lengths) // 2, len(lengths) - 1}:
            own = x.split(lengths)[index], [lengths[index]], closes.split(lengths)[index]
            torch.testing.assert_close(run(backbone, *own).hidden, packed[index], atol=1e-12, rtol=0)
