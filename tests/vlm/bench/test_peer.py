"""transformers' model is used as it is meant to be: its caches agree with each other and with no cache at all."""

import pytest
import torch

from vlm.backbone import BackboneConfig, Documents
from vlm.backbone.cost import costs, kv_bytes_per_token
from vlm.bench import peer
from vlm.bench.lineup import with_kv_heads
from vlm.bench.models import VOCABULARY, Ours, Peer

PROMPT, STEPS = 11, 6


@pytest.fixture
def model(small: BackboneConfig) -> Peer:
    torch.manual_seed(0)
    return Peer(small).eval()


@pytest.mark.parametrize("experts", ["grouped_mm", "eager", "batched_mm"])
@torch.no_grad()
def test_both_caches_give_the_logits_of_a_run_without_one(model: Peer, experts: str) -> None:
    model.model.set_experts_implementation(experts)
    ids = torch.randint(VOCABULARY, (1, PROMPT + STEPS))
    whole = model.model(input_ids=ids).logits[0]
    first, filled = peer.prefill(model, ids[:, :PROMPT])
    torch.testing.assert_close(first[0], whole[PROMPT - 1], atol=1e-4, rtol=1e-4)
    batch = 3
    dynamic, static = peer.copied(model, filled, batch), peer.copied(model, filled, batch, PROMPT + STEPS)
    for turn in range(STEPS):
        token = ids[:, PROMPT + turn].repeat(batch)
        for cache in (dynamic, static):
            logits = peer.step(model, token, cache)
            torch.testing.assert_close(logits, whole[PROMPT + turn].expand(batch, -1), atol=1e-4, rtol=1e-4)
    assert filled.get_seq_length() == PROMPT  # the copies have not touched it


@torch.no_grad()
def test_it_computes_what_our_plain_model_does(model: Peer, small: BackboneConfig) -> None:
    torch.manual_seed(1)
    ours = Ours(small).eval()
    model.take_weights(ours)
    ids = torch.randint(VOCABULARY, (1, PROMPT))
    hidden = ours.backbone(ours.embed(ids[0]), Documents.from_lengths([PROMPT])).hidden
    torch.testing.assert_close(model.model(input_ids=ids).logits[0], ours.head(hidden), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_caches_hold_the_bytes_that_the_cost_model_says(model: Peer, small: BackboneConfig) -> None:
    _, filled = peer.prefill(model, torch.zeros(1, PROMPT, dtype=torch.long))
    each = kv_bytes_per_token(small, 4)
    assert peer.reserved_bytes(filled) == PROMPT * each
    assert peer.reserved_bytes(peer.copied(model, filled, 5)) == 5 * PROMPT * each
    assert peer.reserved_bytes(peer.copied(model, filled, 5, PROMPT + STEPS)) == 5 * (PROMPT + STEPS) * each


@torch.no_grad()
def test_the_fastest_experts_are_chosen_and_named(model: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"grouped_mm": 3.0, "eager": 1.0, "batched_mm": 2.0}
    monkeypatch.setattr(peer, "_seconds", lambda trial, device: seconds[model.model.config._experts_implementation])
    said = peer.choose_experts(model, peer.DECODE_EXPERTS, lambda: None, torch.device("cpu"))
    assert said.startswith("experts by eager (grouped_mm 3,000.0 ms")
    assert model.model.config._experts_implementation == "eager"


def test_the_measured_shape_has_the_127_million_parameters_of_the_notes_in_both() -> None:
    plain = with_kv_heads(6)
    with torch.device("meta"):
        theirs = sum(parameter.numel() for parameter in Peer(plain).parameters())
    assert theirs == costs(plain).total + 2 * VOCABULARY * plain.width == pytest.approx(126.7e6, rel=1e-3)
    assert kv_bytes_per_token(plain, 4) * 16_384 == pytest.approx(604e6, rel=1e-3)


def test_key_heads_must_divide_query_heads() -> None:
    with pytest.raises(ValueError, match="--kv-heads must divide the 6 query heads, got 4"):
        with_kv_heads(4)
