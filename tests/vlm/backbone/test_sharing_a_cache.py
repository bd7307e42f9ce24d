"""Sequences that join, drop out, go on alone or branch within one cache: nobody notices the others."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vlm.backbone.key_values as key_values_module
import vlm.backbone.room as room_module
import vlm.backbone.stored as stored_module
from vlm.backbone import BackboneConfig, ChunkConfig, ConceptConfig, ConceptMoE, Documents, ExpertsConfig
from vlm.backbone.config import LoopConfig
from vlm.backbone.key_values import KeyValues

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
    "last, looped, counted": replace(
        CONFIG,
        chunk=ChunkConfig(compression=2.0, merge="last", positions="count"),
        concept=ConceptConfig(loop=LoopConfig(first=0, layers=1, passes=2)),
    ),
    "delta": replace(CONFIG, chunk=ChunkConfig(compression=2.0, residual="delta")),
    "plain": replace(CONFIG, chunk=None),
}


def backbone_of(kind: str = "sum") -> ConceptMoE:
    torch.manual_seed(0)
    return ConceptMoE(CONFIGS[kind]).double().eval()


def vectors(num_tokens: int, seed: int = 1) -> Tensor:
    return torch.randn(num_tokens, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def alone(backbone: ConceptMoE, x: Tensor) -> Tensor:
    return backbone(x, Documents.from_lengths([len(x)])).hidden


@pytest.fixture(params=["fused", "masked"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernel that gives denominators, and what runs on devices without it."""
    if request.param == "masked":
        monkeypatch.setattr(stored_module, "has_flash", lambda device, dtype: False)
    return str(request.param)


@pytest.mark.parametrize("kind", CONFIGS)
def test_named_sequences_go_on_and_the_others_stay_as_they_are(kind: str, kernel: str) -> None:
    backbone, parts = backbone_of(kind), [vectors(14, seed=s) for s in range(3)]
    expected = [alone(backbone, part) for part in parts]
    cache, said = backbone.new_cache(3, 20), [[], [], []]  # type: ignore[var-annotated]

    def go(sequences: list[int], count: int) -> None:
        new = [parts[i][len(torch.cat(said[i])) if said[i] else 0 :][:count] for i in sequences]
        documents = Documents.from_lengths([len(one) for one in new])
        out = backbone.prefill(torch.cat(new), documents, cache, sequences=sequences).hidden
        for i, hidden in zip(sequences, out.split([len(one) for one in new]), strict=True):
            said[i].append(hidden)

    go([2], 5)
    go([0, 1], 3)
    go([1, 2], 1)
    go([2, 0], 4)
    go([1], 6)
    go([0, 2, 1], 1)
    go([2], 1)
    for mine, whole in zip(said, expected, strict=True):
        torch.testing.assert_close(torch.cat(mine), whole[: len(torch.cat(mine))], atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", CONFIGS)
def test_branches_share_what_lies_before_them_and_leave_no_trace(kind: str, kernel: str) -> None:
    backbone, stems = backbone_of(kind), [vectors(9, seed=1), vectors(4, seed=2)]
    tails = [vectors(n, seed=n) for n in (3, 1, 6, 2)]
    owner = [0, 0, 1, 0]
    cache = backbone.new_cache(2, 30)
    backbone.prefill(torch.cat(stems), Documents.from_lengths([9, 4]), cache)
    documents = Documents.from_lengths([len(tail) for tail in tails])
    for _ in range(2):  # the second time as the first
        out = backbone.branch(torch.cat(tails), documents, cache, owner).hidden.split(documents.lengths)
        for mine, tail, stem in zip(out, tails, owner, strict=True):
            whole = alone(backbone, torch.cat([stems[stem], tail]))[len(stems[stem]) :]
            torch.testing.assert_close(mine, whole, atol=1e-12, rtol=0)
    assert cache.num_tokens == (9, 4)
    rest = vectors(5, seed=8)
    went_on = backbone.prefill(rest, Documents.from_lengths([5]), cache, sequences=[1]).hidden
    torch.testing.assert_close(went_on, alone(backbone, torch.cat([stems[1], rest]))[4:], atol=1e-12, rtol=0)


def test_a_branch_of_an_empty_sequence_is_a_document_of_its_own() -> None:
    backbone, x = backbone_of(), vectors(7)
    cache = backbone.new_cache(1, 10)
    out = backbone.branch(x, Documents.from_lengths([7]), cache, [0]).hidden
    torch.testing.assert_close(out, alone(backbone, x), atol=1e-12, rtol=0)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_whoever_joins_or_drops_out_changes_nobody_else(data: st.DataObject) -> None:
    """A cache lives through random joins, drops, duplicates and steps; each sequence is compared with itself alone."""
    backbone = backbone_of(data.draw(st.sampled_from(sorted(CONFIGS))))
    cache, texts = backbone.new_cache(0, 200), []
    for turn in range(data.draw(st.integers(3, 8))):
        if not texts or data.draw(st.booleans()):
            sizes = data.draw(st.lists(st.integers(1, 70), min_size=1, max_size=3))
            new = [vectors(size, seed=100 * turn + place) for place, size in enumerate(sizes)]
            cache.append(len(new))
            named = list(range(len(texts), len(texts) + len(new)))
            backbone.prefill(torch.cat(new), Documents.from_lengths(sizes), cache, sequences=named)
            texts += new
        for step in range(data.draw(st.integers(0, 3))):
            tokens = vectors(len(texts), seed=9000 + 100 * turn + step)
            hidden = backbone.step(tokens, cache).hidden
            texts = [torch.cat([text, token[None]]) for text, token in zip(texts, tokens, strict=True)]
            for text, last in zip(texts, hidden, strict=True):
                torch.testing.assert_close(last, alone(backbone, text)[-1], atol=1e-11, rtol=0)
        index = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=5))
        cache.select(index)
        texts = [texts[i] for i in index]
    assert cache.num_tokens == tuple(len(text) for text in texts)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_clone_goes_on_by_itself(kind: str) -> None:
    backbone, stem, tails = backbone_of(kind), vectors(9), [vectors(6, seed=2), vectors(4, seed=3)]
    cache = backbone.new_cache(2, 30)
    backbone.prefill(torch.cat([vectors(3, seed=7), stem]), Documents.from_lengths([3, 9]), cache)
    cache.select([1])
    twin = cache.clone()
    assert (twin.num_tokens, twin.num_concepts) == (cache.num_tokens, cache.num_concepts)
    for t in range(6):
        for one, tail in zip((cache, twin), tails, strict=True):
            if t < len(tail):
                last = backbone.step(tail[t : t + 1], one).hidden
                whole = alone(backbone, torch.cat([stem, tail[: t + 1]]))
                torch.testing.assert_close(last, whole[-1:], atol=1e-12, rtol=0)
    assert (cache.num_tokens, twin.num_tokens) == ((15,), (13,))


def test_dropping_copies_nothing_and_its_room_is_used_again() -> None:
    backbone, cache = backbone_of(), backbone_of().new_cache(4, 300)
    backbone.prefill(torch.cat([vectors(10)] * 4), Documents.from_lengths([10] * 4), cache)
    before = [key.data_ptr() for key in cache.tokens.keys if key is not None]
    size = cache.nbytes
    cache.select([3, 0])
    cache.append(2)
    assert cache.num_tokens == (10, 10, 0, 0)
    backbone.prefill(torch.cat([vectors(7)] * 2), Documents.from_lengths([7] * 2), cache, sequences=[2, 3])
    assert [key.data_ptr() for key in cache.tokens.keys if key is not None] == before
    assert cache.nbytes == size


def moves_while_growing(num_tokens: int) -> tuple[int, KeyValues]:
    """How many stored rows were copied while a sequence grew by one token at a time."""
    store = KeyValues([(1, 4)], 1, 10**6)
    key, copied, pointer = torch.zeros(1, 1, 4), 0, 0
    for length in range(num_tokens):
        store.store(0, key, key, store.seat(Documents.from_lengths([1]), [0]))
        kept = store.keys[0]
        assert kept is not None
        if kept.data_ptr() != pointer:
            pointer, copied = kept.data_ptr(), copied + length
    return copied, store


def test_on_a_cpu_nothing_is_ever_moved_and_only_what_is_written_counts() -> None:
    copied, store = moves_while_growing(4000)
    assert copied == 0
    assert store.nbytes == 2 * 4000 * 4 * 4


@pytest.fixture
def taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory as on a GPU: it is taken when it is asked for."""
    for module in (room_module, key_values_module):
        monkeypatch.setattr(module, "comes_when_written", lambda device: False)


def test_elsewhere_growth_copies_a_few_rows_for_each_token_however_long_the_past(taken_at_once: None) -> None:
    copied, store = moves_while_growing(4000)
    assert copied < 4000 * 40
    assert store.capacity < 4000 * 1.04 + room_module.GROWTH
    assert store.nbytes == 2 * store.capacity * 4 * 4


def test_elsewhere_room_is_that_of_the_longest_sequence_and_never_beyond_the_limit(taken_at_once: None) -> None:
    backbone, x, y = backbone_of(), vectors(60), vectors(20)
    cache = backbone.new_cache(2, 70)
    backbone.prefill(x, Documents.from_lengths([50, 10]), cache)
    assert cache.tokens.capacity == room_module.GROWTH
    hidden = backbone.prefill(y, Documents.from_lengths([20]), cache, sequences=[0]).hidden
    assert cache.tokens.capacity == 70
    torch.testing.assert_close(hidden, alone(backbone, torch.cat([x[:50], y]))[50:], atol=1e-12, rtol=0)


def test_elsewhere_concepts_take_room_in_proportion_to_their_number(taken_at_once: None) -> None:
    backbone = backbone_of()
    cache = backbone.new_cache(1, 3000)
    backbone.prefill(vectors(2000), Documents.from_lengths([2000]), cache)
    (count,) = cache.num_concepts
    assert cache.concepts is not None
    assert 2000 <= cache.tokens.capacity < 2000 + room_module.GROWTH
    assert count <= cache.concepts.capacity < count + room_module.GROWTH


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([0], "1 sequences are named but 2 documents came"),
        ([0, 2], "holds 2 sequences, counted from 0; there is no sequence 2"),
        ([1, 1], r"continued by one document, got \[1, 1\]; `branch`"),
    ],
)
def test_sequences_that_cannot_be_are_refused(sequences: list[int], message: str) -> None:
    backbone = backbone_of()
    with pytest.raises(ValueError, match=message):
        backbone.prefill(vectors(4), Documents.from_lengths([2, 2]), backbone.new_cache(2, 9), sequences=sequences)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_sequence_whose_numbers_have_gone_wrong_spoils_itself_alone(kind: str, kernel: str) -> None:
    backbone, good, bad = backbone_of(kind), vectors(12), vectors(12, seed=2)
    bad[6] = torch.nan
    expected = alone(backbone, good)
    cache = backbone.new_cache(2, 20)
    hidden = backbone.prefill(torch.cat([bad[:9], good[:9]]), Documents.from_lengths([9, 9]), cache).hidden
    assert not hidden[6:9].isfinite().any()
    torch.testing.assert_close(hidden[9:], expected[:9], atol=1e-12, rtol=0)
    for t in range(9, 11):
        last = backbone.step(torch.stack([bad[t], good[t]]), cache).hidden[1]
        torch.testing.assert_close(last, expected[t], atol=1e-12, rtol=0)
    cache.select([1])
    cache.append(1)  # into the room of the spoilt one
    both = backbone.prefill(torch.cat([good[11:], good]), Documents.from_lengths([1, 12]), cache).hidden
    torch.testing.assert_close(both, torch.cat([expected[11:], expected]), atol=1e-12, rtol=0)


def test_room_that_the_system_does_not_give_is_told_in_words() -> None:
    store = KeyValues([(1, 4)], 1, 2**58)
    with pytest.raises(ValueError, match="GiB of room for 1 sequences"):
        store.store(0, torch.zeros(1, 1, 4), torch.zeros(1, 1, 4), store.seat(Documents.from_lengths([1]), [0]))
