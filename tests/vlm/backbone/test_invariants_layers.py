"""Caches, joint decoding and loops: invariants 10, 11, 17 and 19 of the design notes, for every kind that they touch."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.vlm.backbone.kinds import (
    CHUNKED,
    KINDS,
    PLAIN,
    SUM,
    backbone_of,
    every_probability,
    gradients,
    places,
    some_boundaries,
    train_with,
    vectors,
)
from vlm.backbone import BackboneConfig, ChunkConfig, ConceptConfig, ConceptMoE, Documents, LoopConfig

JOINT = [kind for kind, config in CHUNKED.items() if config.chunk is not None and config.chunk.joint is not None]
LOOPED = [kind for kind, config in KINDS.items() if config.concept.loop is not None]


# Without shrinking: a failure would take minutes to shrink.
@settings(max_examples=12, deadline=None, phases=[Phase.reuse, Phase.generate])
@given(data=st.data(), kind=st.sampled_from(list(KINDS)), every=st.sampled_from([None, 0.0, 1.0]))
def test_ragged_prefills_in_any_pieces_give_the_whole_documents(
    data: st.DataObject, kind: str, every: float | None
) -> None:
    """[10] Positions on three axes; from one concept a document to as many as tokens; up to 300 tokens at once."""
    calls, sequences = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    sizes = [[data.draw(st.integers(1, 300 if calls == 1 else 20)) for _ in range(calls)] for _ in range(sequences)]
    lengths = [sum(size) for size in sizes]
    backbone, x, positions = backbone_of(kind), vectors(sum(lengths)), places(sum(lengths))
    pieces = [part.split(size) for part, size in zip(x.split(lengths), sizes, strict=True)]
    positions_of = [part.split(size) for part, size in zip(positions.split(lengths), sizes, strict=True)]
    cache = backbone.new_cache(sequences, 300)
    with every_probability(every):
        with torch.no_grad():
            whole = backbone(x, Documents.from_lengths(lengths), positions)
        out: list[list[Tensor]] = [[] for _ in lengths]
        for call in range(calls):
            new = Documents.from_lengths([size[call] for size in sizes])
            parts = [torch.cat([rows[call] for rows in given]) for given in (pieces, positions_of)]
            hidden = backbone.prefill(parts[0], new, cache, parts[1]).hidden
            for rows, part in zip(out, hidden.split(new.lengths), strict=True):
                rows.append(part)
    torch.testing.assert_close(torch.cat([row for rows in out for row in rows]), whole.hidden, atol=1e-11, rtol=0)
    assert cache.num_tokens == tuple(lengths)
    closed = [
        n if whole.chunks is None else int(whole.chunks.closes.split(lengths)[i].sum()) for i, n in enumerate(lengths)
    ]
    assert cache.num_concepts == tuple(closed)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_give_the_probabilities_boundaries_and_vectors_of_the_whole(kind: str) -> None:
    """[10]"""
    backbone, x, documents = backbone_of(kind), vectors(10), Documents.from_lengths([10])
    whole, cache = backbone(x, documents), backbone.new_cache(1, 10)
    steps = [backbone.step(token[None], cache) for token in x]
    torch.testing.assert_close(torch.cat([step.hidden for step in steps]), whole.hidden, atol=1e-12, rtol=0)
    if whole.chunks is not None:
        chunks = [step.chunks for step in steps if step.chunks is not None]
        torch.testing.assert_close(torch.cat([one.prob for one in chunks]), whole.chunks.prob, atol=1e-12, rtol=0)
        assert torch.equal(torch.cat([one.closes for one in chunks]), whole.chunks.closes)


@pytest.mark.parametrize("kind", CHUNKED)
def test_a_step_runs_concept_layers_for_those_alone_whose_token_closes_a_concept(kind: str) -> None:
    """[11] Once for each pass; the stored concepts of the others stay as they are."""
    backbone, x = backbone_of(kind), vectors(18).view(2, 9, -1)
    rows_run: list[int] = []
    for layer in backbone.concept:
        layer.register_forward_pre_hook(lambda _, inputs: rows_run.append(len(inputs[0])))
    cache, num_runs = backbone.new_cache(2, 9), len(backbone.config.concept_order)
    assert cache.concepts is not None
    for t in range(9):
        rows_run.clear()
        kept = [None if keys is None else keys.clone() for keys in cache.concepts.keys]
        before = cache.num_concepts
        chunks = backbone.step(x[:, t], cache).chunks
        assert chunks is not None
        closed = chunks.closes.tolist()
        assert rows_run == [sum(closed)] * num_runs * any(closed)
        assert cache.num_concepts == tuple(n + c for n, c in zip(before, closed, strict=True))
        for was, now in zip(kept, cache.concepts.keys, strict=True):
            for row in range(2):
                if was is not None and now is not None:
                    assert torch.equal(was[row, :, : before[row]], now[row, :, : before[row]])
    assert sum(cache.num_concepts) < 18


@pytest.mark.parametrize("kind", JOINT)
def test_joint_projections_that_start_at_zero_change_nothing_and_learn(kind: str) -> None:
    """[17] In values, losses and gradients of all other weights."""
    config = CHUNKED[kind]
    assert config.chunk is not None
    alone = backbone_of(replace(config, chunk=replace(config.chunk, joint=None)))
    joint = ConceptMoE(replace(config, chunk=replace(config.chunk, joint="zero"))).double()
    joint.load_state_dict(alone.state_dict(), strict=False)
    x, closes, out_grad = vectors(20), some_boundaries([20]), vectors(20, seed=2)
    outs = [train_with(backbone, x, [20], closes) for backbone in (alone, joint)]
    torch.testing.assert_close(outs[1].hidden, outs[0].hidden, atol=1e-12, rtol=0)
    torch.testing.assert_close(outs[1].losses, outs[0].losses, atol=1e-12, rtol=0)
    for out in outs:
        out.hidden.backward(out_grad)
    theirs, ours = gradients(alone), gradients(joint)
    torch.testing.assert_close({name: ours[name] for name in theirs}, theirs, atol=1e-9, rtol=1e-9)
    new = {name: grad for name, grad in ours.items() if name not in theirs}
    assert len(new) == 4 * config.decoder_layers
    assert all(grad is not None and grad.any() for name, grad in new.items() if name.endswith("proj.weight"))


@pytest.mark.parametrize("kind", JOINT)
def test_another_concept_at_one_token_reaches_that_token_and_later_ones_of_its_document(kind: str) -> None:
    """[17]"""
    attention: Any = backbone_of(kind).decoder[0].self_attn
    if not attention.joint_q_proj.weight.any():
        for part in "qkv":
            torch.nn.init.normal_(getattr(attention, f"joint_{part}_proj").weight)
    documents, x, concept = Documents.from_lengths([6, 3]), vectors(9), vectors(9, seed=2)
    angles = backbone_of(kind).rotary(documents.offset_in_document, x.dtype)
    before = attention(x, documents, angles, concept)
    changed = concept.clone()
    changed[2] += vectors(1, seed=3)[0]
    reached = (attention(x, documents, angles, changed) - before).abs().amax(1)
    assert (reached > 1e-9).tolist() == [False, False, True, True, True, True, False, False, False]
    assert (reached[6:] == 0).all()


@pytest.mark.parametrize("kind", CHUNKED)
def test_decoder_layers_alone_have_joint_projections(kind: str) -> None:
    """[17]"""
    found = {name.split(".")[0] for name, _ in backbone_of(kind).named_parameters() if "joint_" in name}
    assert found == ({"decoder"} if kind in JOINT else set())


def unrolled(looped: ConceptMoE) -> tuple[ConceptMoE, list[int]]:
    """A backbone without a loop, with a copy of the layer for each time that it runs; and which layer each is of."""
    order = list(looped.config.concept_order)
    own = replace(looped.config.concept, loop=None)
    copy = ConceptMoE(replace(looped.config, concept_layers=len(order), concept=own)).double()
    state = {name: value for name, value in looped.state_dict().items() if not name.startswith("concept.")}
    for run, layer in enumerate(order):
        for name, value in looped.concept[layer].state_dict().items():
            state[f"concept.{run}.{name}"] = value
    copy.load_state_dict(state)
    return copy, order


@pytest.mark.parametrize("kind", LOOPED)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_a_loop_is_its_unrolled_copy_and_its_gradients_are_the_sums_over_passes(kind: str, training: bool) -> None:
    """[19]"""
    looped, lengths, out_grad = backbone_of(kind), [12, 8], vectors(20, seed=2)
    copy, order = unrolled(looped)
    closes, outs = some_boundaries(lengths), []
    for backbone in (looped, copy):
        if training:
            out = train_with(backbone, vectors(20), lengths, closes)
        else:
            out = backbone.eval()(vectors(20), Documents.from_lengths(lengths))
        ((out.hidden * out_grad).sum() + sum(out.losses.values())).backward()
        outs.append(out.hidden)
    torch.testing.assert_close(outs[0], outs[1], atol=1e-12, rtol=0)
    summed: dict[str, Tensor] = {}
    for name, grad in gradients(copy).items():
        assert grad is not None
        part, _, rest = name.partition(".")
        run, _, inner = rest.partition(".")
        target = f"concept.{order[int(run)]}.{inner}" if part == "concept" else name
        summed[target] = summed[target] + grad if target in summed else grad
    torch.testing.assert_close(gradients(looped), summed, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("kind", LOOPED)
def test_a_loop_adds_no_weights_and_keeps_keys_and_values_for_each_pass(kind: str) -> None:
    """[19]"""
    looped, config = backbone_of(kind), KINDS[kind]
    once = ConceptMoE(replace(config, concept=replace(config.concept, loop=None)))
    assert {name: p.shape for name, p in looped.named_parameters()} == {n: p.shape for n, p in once.named_parameters()}
    cache = looped.new_cache(1, 9)
    looped.prefill(vectors(9), Documents.from_lengths([9]), cache)
    stored = (cache.concepts or cache.tokens).keys
    tokens = 0 if cache.concepts is not None else config.encoder_layers + config.decoder_layers
    assert len(stored) == len(config.concept_order) + tokens
    kept = [keys for keys in stored if keys is not None]
    assert len(kept) == len(stored)
    assert not any(torch.equal(a, b) for i, a in enumerate(kept) for b in kept[:i])


def test_the_loop_repeats_its_layers_as_a_block() -> None:
    """[19]"""
    config = replace(SUM, concept_layers=5, concept=ConceptConfig(loop=LoopConfig(first=1, layers=3, passes=2)))
    assert config.concept_order == (0, 1, 2, 3, 1, 2, 3, 4)


@pytest.mark.parametrize("passes", [1, 0])
def test_a_loop_of_one_pass_is_refused(passes: int) -> None:
    """[19]"""
    with pytest.raises(ValueError, match=rf"a loop of passes={passes} is none; give 2 or more, or loop: null"):
        LoopConfig(first=0, layers=1, passes=passes)


@pytest.mark.parametrize("base", [SUM, PLAIN["plain"]], ids=["sum", "plain"])
def test_a_loop_beyond_the_last_concept_layer_is_refused(base: BackboneConfig) -> None:
    """[19]"""
    with pytest.raises(ValueError, match="covers concept layers 1 to 2 but concept_layers is 2"):
        replace(base, concept=ConceptConfig(loop=LoopConfig(first=1, layers=2)))


def test_counted_positions_of_concepts_are_those_of_a_row_of_concepts_alone() -> None:
    """[6] With `positions: count` the concept layers see no gaps: the sums, given as tokens, become the same."""
    backbone = backbone_of(replace(SUM, chunk=ChunkConfig(compression=2.0, positions="count")))
    plain = ConceptMoE(replace(SUM, chunk=None, encoder_layers=0, decoder_layers=0)).double()
    plain.load_state_dict(
        {name: v for name, v in backbone.state_dict().items() if name.startswith(("concept", "norm"))}
    )
    ins, outs = [], []
    backbone.concept[0].register_forward_pre_hook(lambda _, inputs: ins.append(inputs[0]))
    backbone.concept[-1].register_forward_hook(lambda _, inputs, out: outs.append(out[0]))
    chunks = backbone(vectors(20), Documents.from_lengths([12, 8])).chunks
    assert chunks is not None
    assert chunks.documents is not None
    torch.testing.assert_close(plain(ins[0], chunks.documents).hidden, plain.norm(outs[0]), atol=1e-12, rtol=0)
