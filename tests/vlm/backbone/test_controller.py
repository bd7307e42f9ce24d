import math
import random

import pytest
import torch
import torch.nn.functional as F

from vlm.backbone import BackboneConfig, ChunkConfig, ConceptMoE, Documents, ExpertsConfig, RatioController


def test_the_weight_grows_while_compression_is_off_on_either_side() -> None:
    for num_closed in (300, 900):
        controller = RatioController(2.0)
        for _ in range(10):
            controller.update(1000, num_closed)
        assert controller.weight == pytest.approx(0.03 * math.e)
        assert controller.measured == pytest.approx(1000 / num_closed)


def test_the_weight_falls_at_the_target_and_stays_within_its_bounds() -> None:
    controller = RatioController(4.0, weight=0.011)
    for _ in range(100):
        controller.update(1000, 250)
    assert controller.weight == 0.01
    for _ in range(1000):
        controller.update(1000, 10)
    assert controller.weight == 10.0


def test_a_swing_around_the_target_lowers_the_weight() -> None:
    controller = RatioController(2.0, weight=1.0)
    for step in range(100):
        controller.update(1000, 650 if step % 2 else 385)
    assert controller.weight < 0.1


def test_a_step_without_tokens_changes_nothing() -> None:
    controller = RatioController(2.0)
    controller.update(0, 0)
    assert (controller.weight, controller.measured) == (0.03, None)


def test_a_restored_controller_goes_on_as_the_first_would() -> None:
    first, second = RatioController(2.0), RatioController(2.0)
    for _ in range(5):
        first.update(1000, 700)
    second.load_state_dict(first.state_dict())
    for controller in (first, second):
        controller.update(1000, 400)
    assert (first.weight, first.measured) == (second.weight, second.measured)


def test_a_target_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="above 1, got 1"):
        RatioController(1.0)


WORDS = [[1 + (7 * w + 3 * i + w * i) % 23 for i in range(2 + w % 5)] + [0] for w in range(24)]


def rows_of_words(draw: random.Random) -> tuple[list[int], list[int]]:
    """Token ids and document lengths of rows of words, each word followed by one of three: soon learnt by heart."""
    ids: list[int] = []
    lengths: list[int] = []
    while len(ids) < 512:
        word, before = draw.randrange(24), len(ids)
        for _ in range(draw.randint(4, 8)):
            ids += WORDS[word]
            word = (5 * word + draw.randrange(3)) % 24
        lengths.append(len(ids) - before)
    return ids, lengths


def compression_after_training(target: float, controller: RatioController | None) -> float:
    """Train a tiny language model, and measure its compression in evaluation mode."""
    torch.manual_seed(0)
    draw = random.Random(0)
    config = BackboneConfig(
        width=32,
        num_heads=2,
        num_kv_heads=1,
        head_width=16,
        encoder_layers=1,
        concept_layers=1,
        decoder_layers=1,
        experts=ExpertsConfig(num_experts=4, top_k=2, hidden=32),
        chunk=ChunkConfig(compression=target, ratio_share="threshold" if controller else "drawn"),
        init_std=0.1,
    )
    backbone, embed, head = ConceptMoE(config), torch.nn.Embedding(24, 32), torch.nn.Linear(32, 24)
    parameters = [*backbone.parameters(), *embed.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        ids, lengths = rows_of_words(draw)
        documents, tokens = Documents.from_lengths(lengths), torch.tensor(ids)
        out = backbone(embed(tokens), documents)
        labels = tokens.roll(-1).index_fill(0, documents.ends - 1, -100)
        assert out.chunks is not None
        weight = 0.03 if controller is None else controller.weight
        loss = F.cross_entropy(head(out.hidden), labels) + weight * out.losses["ratio"] + 0.01 * out.losses["balance"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if controller is not None:
            controller.update(*torch.tensor(out.chunks.counts).sum(0).tolist())
    backbone.eval()
    counts = torch.zeros(2)
    for _ in range(5):
        ids, lengths = rows_of_words(draw)
        chunks = backbone(embed(torch.tensor(ids)), Documents.from_lengths(lengths)).chunks
        assert chunks is not None
        counts += torch.tensor(chunks.counts).sum(0)
    return (counts[0] / counts[1]).item()


@pytest.mark.slow
@pytest.mark.parametrize("target", [1.5, 2.0, 4.0])
def test_the_controller_holds_a_target_from_which_a_constant_weight_drifts(target: float) -> None:
    assert compression_after_training(target, RatioController(target)) == pytest.approx(target, rel=0.1)
    assert abs(compression_after_training(target, None) / target - 1) > 0.1
