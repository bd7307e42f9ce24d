"""Prefill, decode and chunked prefill give what the whole documents give (invariants 10, 11 and 20)."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlm.backbone import (
    BackboneConfig,
    Cache,
    ChunkConfig,
    ConceptConfig,
    ConceptMoE,
    Documents,
    ExpertsConfig,
    LoopConfig,
)

pytestmark = pytest.mark.long

WIDTH = 16
CONFIG = BackboneConfig(
    width=WIDTH,
    num_heads=4,
    num_kv_heads=2,
    head_width=8,
    encoder_layers=1,
    concept_layers=2,
    decoder_layers=1,
    experts=ExpertsConfig(num_experts=4, top_k=2, hidden=16),
    chunk=ChunkConfig(compression=2.0),
    init_std=0.3,
)
CONFIGS = {
    "sum": CONFIG,
    "last": replace(CONFIG, chunk=ChunkConfig(compression=2.0, merge="last")),
    "plain": replace(CONFIG, chunk=None),
    "dense": replace(CONFIG, experts=ExpertsConfig(num_experts=1, top_k=1, hidden=16)),
    "delta": replace(CONFIG, chunk=ChunkConfig(compression=2.0, residual="delta")),
    "delta without joint": replace(CONFIG, chunk=ChunkConfig(compression=2.0, residual="delta", joint=None)),
    "counted": replace(CONFIG, chunk=ChunkConfig(compression=2.0, positions="count")),
    "looped": replace(CONFIG, concept=ConceptConfig(loop=LoopConfig(first=0, layers=2, passes=3))),
    "plain looped": replace(CONFIG, chunk=None, concept=ConceptConfig(loop=LoopConfig(first=1, layers=1))),
    "wide": replace(
        CONFIG,
        concept=ConceptConfig(
            width=24, num_heads=6, num_kv_heads=3, experts=ExpertsConfig(num_experts=3, top_k=1, hidden=24)
        ),
    ),
    "wide delta": replace(
        CONFIG,
        chunk=ChunkConfig(compression=2.0, residual="delta"),
        concept=ConceptConfig(width=24, num_heads=2, num_kv_heads=1, loop=LoopConfig(first=1, layers=1)),
    ),
    "shared expert": replace(
        CONFIG, experts=ExpertsConfig(num_experts=4, top_k=2, hidden=16, shared_hidden=8, normalize_top_k=False)
    ),
    "biased": replace(CONFIG, attention_bias="qkvo", qk_norm=None),
    "norm over heads": replace(CONFIG, attention_bias="qkv", qk_norm="all"),
}


def backbone_of(kind: str = "sum") -> ConceptMoE:
    torch.manual_seed(0)
    return ConceptMoE(CONFIGS[kind]).double().eval()


def vectors(num_tokens: int, seed: int = 1) -> Tensor:
    return torch.randn(num_tokens, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def whole_documents(backbone: ConceptMoE, parts: list[Tensor]) -> tuple[list[Tensor], list[int]]:
    """Hidden vectors and number of concepts of each document."""
    out = [backbone(part, Documents.from_lengths([len(part)])) for part in parts]
    counts = [
        len(part) if one.chunks is None else int(one.chunks.closes.sum()) for part, one in zip(parts, out, strict=True)
    ]
    return [one.hidden for one in out], counts


def prefill(backbone: ConceptMoE, parts: list[Tensor], cache: Cache) -> list[Tensor]:
    lengths = [len(part) for part in parts]
    return list(backbone.prefill(torch.cat(parts), Documents.from_lengths(lengths), cache).hidden.split(lengths))


@pytest.mark.parametrize("kind", CONFIGS)
def test_one_seam_anywhere_changes_nothing(kind: str) -> None:
    backbone, x = backbone_of(kind), vectors(16)
    (expected,), counts = whole_documents(backbone, [x])
    for seam in range(1, 16):
        cache = backbone.new_cache(1, 16)
        hidden = torch.cat([prefill(backbone, [part], cache)[0] for part in (x[:seam], x[seam:])])
        torch.testing.assert_close(hidden, expected, atol=1e-12, rtol=0)
        assert (cache.num_tokens, cache.num_concepts) == ((16,), tuple(counts))


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_ragged_batch_of_prefill_and_steps_gives_what_each_document_gives_alone(kind: str) -> None:
    backbone, lengths = backbone_of(kind), [3, 11, 1, 7]
    parts = [vectors(n + 6, seed=n) for n in lengths]
    expected, counts = whole_documents(backbone, parts)
    cache = backbone.new_cache(4, 20)
    hidden = [[first] for first in prefill(backbone, [p[:n] for p, n in zip(parts, lengths, strict=True)], cache)]
    for t in range(6):
        new = backbone.step(torch.stack([p[n + t] for p, n in zip(parts, lengths, strict=True)]), cache).hidden
        for row, vector in zip(hidden, new, strict=True):
            row.append(vector[None])
    for row, whole in zip(hidden, expected, strict=True):
        torch.testing.assert_close(torch.cat(row), whole, atol=1e-12, rtol=0)
    assert cache.num_concepts == tuple(counts)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_any_ragged_seams_change_nothing(data: st.DataObject) -> None:
    backbone = backbone_of(data.draw(st.sampled_from(["sum", "last"])))
    calls, sequences = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    sizes = [[data.draw(st.integers(1, 9)) for _ in range(calls)] for _ in range(sequences)]
    parts = [vectors(sum(size), seed=data.draw(st.integers(0, 99))) for size in sizes]
    expected, counts = whole_documents(backbone, parts)
    cache = backbone.new_cache(sequences, 40)
    pieces = [part.split(size) for part, size in zip(parts, sizes, strict=True)]
    calls_out = [prefill(backbone, list(call), cache) for call in zip(*pieces, strict=True)]
    for row, whole in enumerate(expected):
        torch.testing.assert_close(torch.cat([call[row] for call in calls_out]), whole, atol=1e-12, rtol=0)
    assert cache.num_concepts == tuple(counts)


def test_probabilities_and_boundaries_of_steps_equal_those_of_the_whole() -> None:
    backbone, x = backbone_of(), vectors(20)
    whole = backbone(x, Documents.from_lengths([20])).chunks
    assert whole is not None
    cache = backbone.new_cache(1, 20)
    steps = [backbone.step(token[None], cache).chunks for token in x]
    assert all(step is not None for step in steps)
    torch.testing.assert_close(torch.cat([step.prob for step in steps if step]), whole.prob)
    assert torch.equal(torch.cat([step.closes for step in steps if step]), whole.closes)


def test_concept_layers_run_only_for_sequences_whose_token_closes_a_concept() -> None:
    backbone, x = backbone_of(), vectors(60).view(3, 20, WIDTH)
    rows_seen: list[int] = []
    backbone.concept[0].register_forward_pre_hook(lambda _, inputs: rows_seen.append(len(inputs[0])))
    cache = backbone.new_cache(3, 20)
    for t in range(20):
        called, before = len(rows_seen), cache.num_concepts
        chunks = backbone.step(x[:, t], cache).chunks
        assert chunks is not None
        closed = chunks.closes.long()
        assert rows_seen[called:] == ([int(closed.sum())] if closed.any() else [])
        assert cache.num_concepts == tuple(n + c for n, c in zip(before, closed.tolist(), strict=True))
    assert sum(rows_seen) == sum(cache.num_concepts) < 60


def test_selected_sequences_go_on_as_they_would_have() -> None:
    backbone, parts = backbone_of(), [vectors(n, seed=n) for n in (9, 14, 12)]
    expected, _ = whole_documents(backbone, parts)
    cache = backbone.new_cache(3, 20)
    prefill(backbone, [part[:8] for part in parts], cache)
    cache.select(torch.tensor([2, 0, 2]))
    for t in range(8, 9):
        hidden = backbone.step(torch.stack([parts[2][t], parts[0][t], parts[2][t]]), cache).hidden
        torch.testing.assert_close(hidden, torch.stack([expected[2][t], expected[0][t], expected[2][t]]))
    cache.select(torch.tensor([2]))
    rest = prefill(backbone, [parts[2][9:]], cache)[0]
    torch.testing.assert_close(rest, expected[2][9:])


def test_a_duplicated_sequence_shares_nothing_with_its_copy() -> None:
    backbone, stem, tails = backbone_of(), vectors(7), [vectors(5, seed=s) for s in (2, 3)]
    expected, _ = whole_documents(backbone, [torch.cat([stem, tail]) for tail in tails])
    cache = backbone.new_cache(1, 20)
    prefill(backbone, [stem], cache)
    cache.select(torch.tensor([0, 0]))
    for t in range(5):
        hidden = backbone.step(torch.stack([tail[t] for tail in tails]), cache).hidden
        torch.testing.assert_close(hidden, torch.stack([whole[7 + t] for whole in expected]))


def test_an_appended_sequence_starts_a_document_beside_those_that_go_on() -> None:
    backbone, first, second = backbone_of(), vectors(12, seed=2), vectors(5, seed=3)
    expected, _ = whole_documents(backbone, [first, second])
    cache = backbone.new_cache(1, 20)
    prefill(backbone, [first[:7]], cache)
    cache.append(1)
    for t in range(5):
        hidden = backbone.step(torch.stack([first[7 + t], second[t]]), cache).hidden
        torch.testing.assert_close(hidden, torch.stack([expected[0][7 + t], expected[1][t]]))


def test_given_positions_are_used_by_prefill_and_step() -> None:
    backbone, x = backbone_of(), vectors(12)
    positions = torch.randint(0, 50, (12, 3))
    expected = backbone(x, Documents.from_lengths([12]), positions).hidden
    cache = backbone.new_cache(1, 12)
    head = backbone.prefill(x[:8], Documents.from_lengths([8]), cache, positions[:8]).hidden
    tail = [backbone.step(x[t : t + 1], cache, positions[t : t + 1]).hidden for t in range(8, 12)]
    torch.testing.assert_close(torch.cat([head, *tail]), expected, atol=1e-12, rtol=0)


def test_prefill_uses_the_threshold_even_while_the_module_trains() -> None:
    backbone, x = backbone_of(), vectors(30)
    expected = backbone(x, Documents.from_lengths([30])).hidden
    backbone.train()
    torch.testing.assert_close(prefill(backbone, [x], backbone.new_cache(1, 30))[0], expected)


def test_float32_steps_stay_close_to_the_whole() -> None:
    backbone, x = backbone_of().float(), vectors(40).float()
    expected = backbone(x, Documents.from_lengths([40])).hidden
    cache = backbone.new_cache(1, 40)
    hidden = torch.cat([backbone.step(token[None], cache).hidden for token in x])
    torch.testing.assert_close(hidden, expected, atol=1e-4, rtol=0)


def test_a_full_cache_is_refused_with_its_size() -> None:
    backbone = backbone_of()
    cache = backbone.new_cache(1, 5)
    prefill(backbone, [vectors(5)], cache)
    with pytest.raises(ValueError, match="grow to 6 tokens but the cache was made for 5"):
        backbone.step(vectors(1), cache)


def test_a_document_too_many_is_refused() -> None:
    backbone = backbone_of()
    with pytest.raises(ValueError, match="holds 1 sequences but 2 documents"):
        prefill(backbone, [vectors(2), vectors(2)], backbone.new_cache(1, 5))
