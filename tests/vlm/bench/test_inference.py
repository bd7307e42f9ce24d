"""Prefill and decoding are measured on what was asked, for every model, and beside what the cost model says."""

from collections.abc import Callable

import pytest
import torch

from vlm.backbone import BackboneConfig
from vlm.backbone.cost import count_parameters
from vlm.bench import decode as decoding
from vlm.bench.boundaries import Pattern
from vlm.bench.decode import measure_decode, predict_bytes
from vlm.bench.lineup import Lineup, available_bytes, line_up, with_kv_heads
from vlm.bench.models import BASELINE, VOCABULARY, Ours, variants
from vlm.bench.predict import prefill_flops, step_bytes
from vlm.bench.prefill import measure_prefill

pytestmark = pytest.mark.long

OURS = [BASELINE, "1L-top8-R2", "1.5L-top4-R2", "2L-top2-R2"]
PEERS = ["transformers, DynamicCache", "transformers, StaticCache"]
REGULAR = Pattern.regular(2.0)


def test_prefill_measures_every_model_on_the_same_prompts(lined_up: Callable[..., Lineup]) -> None:
    lineup = lined_up()
    told: list[tuple[int, int]] = []
    found = measure_prefill(
        lineup, REGULAR, batch=2, length=32, rounds=2, progress=lambda done, total: told.append((done, total))
    )
    assert [one.model for one in found] == [*OURS, PEERS[0]]
    assert all(one.seconds > 0 and one.tokens_per_s == pytest.approx(64 / one.seconds) for one in found)
    assert found[0].speed == found[0].predicted == found[-1].predicted == 1
    # A prompt's first token closes beside every second one, but for the prompt that begins in the middle of a concept.
    assert [one.compression for one in found] == [None, *[pytest.approx(2.0, rel=0.05)] * 3, None]
    assert told[-1] == (15, 15)
    assert "experts by" in lineup.notes[0]


def test_decoding_measures_every_model_from_the_same_lengths(lined_up: Callable[..., Lineup]) -> None:
    found = measure_decode(lined_up(), REGULAR, length=48, batches=[1, 4], steps=4, rounds=3)
    assert [(one.model, one.batch) for one in found] == [(name, batch) for batch in (1, 4) for name in OURS + PEERS]
    for one in found:
        assert one.tokens_per_s == pytest.approx(one.batch / one.seconds)
        assert one.p95_s > 0
        assert one.kv_bytes >= 0.99 * one.kv_bytes_predicted
        # Forced boundaries: every four steps close exactly two concepts.
        assert one.compression == (2.0 if one.model in OURS[1:] else None)
    static = found[len(OURS) + 1]
    assert static.kv_bytes == static.kv_bytes_predicted  # sized exactly


def test_steps_are_around_the_length_that_is_named(
    lined_up: Callable[..., Lineup], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    real = decoding._prefilled

    def spy(model: Ours, pattern: Pattern, length: int, more: int) -> object:
        seen.append((length, more))
        return real(model, pattern, length, more)

    monkeypatch.setattr(decoding, "_prefilled", spy)
    measure_decode(lined_up("1L"), REGULAR, length=40, steps=4, rounds=2)
    # One unmeasured round from 32 to 36, two measured ones from 36 to 44.
    assert seen == [(32, 12)] * 2


def test_a_length_without_room_for_the_rounds_is_refused(lined_up: Callable[..., Lineup]) -> None:
    with pytest.raises(ValueError, match="give at least 9, or fewer --rounds"):
        measure_decode(lined_up("1L"), REGULAR, length=8, steps=4, rounds=2)


def test_a_batch_whose_caches_do_not_fit_is_left_out_with_a_line(
    lined_up: Callable[..., Lineup], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "available_bytes", lambda device: 2_000_000)
    lineup = lined_up("1L")
    found = measure_decode(lineup, REGULAR, length=48, batches=[1, 512], steps=4, rounds=1)
    assert {one.batch for one in found} == {1}
    assert len(lineup.notes) == 1
    assert lineup.notes[0].startswith("decode of 512 x 48 left out: the caches of all models need 0.1 GiB")
    monkeypatch.setattr(decoding, "available_bytes", lambda device: 0)
    assert measure_decode(lineup, REGULAR, length=48, batches=[1], steps=4, rounds=1) == []


def test_memory_that_is_free_is_known_here() -> None:
    free = available_bytes(torch.device("cpu"))
    assert free is None or free > 0


def test_models_are_chosen_by_the_first_letters_of_their_names(small: BackboneConfig) -> None:
    lineup = line_up(plain=small, names=["2L"], device=torch.device("cpu"))
    assert list(lineup.ours) == [BASELINE, "2L-top2-R2"]
    assert lineup.peer is None
    with pytest.raises(ValueError, match=r"unknown model '3L'; known: plain MoE, 1L-top8-R2"):
        line_up(plain=small, names=["3L"], device=torch.device("cpu"))


def test_a_step_of_very_many_sequences_reads_all_parameters_once(small: BackboneConfig) -> None:
    configs = variants(2.0, small)
    for name in OURS[:2]:
        config = configs[name]
        parameters = count_parameters(Ours(config)).total - VOCABULARY * config.width  # without the embedding
        compression = None if config.chunk is None else 2.0
        assert step_bytes(config, 10_000, 0, 10_000, compression, 1) == pytest.approx(parameters)


def test_a_step_of_one_sequence_reads_its_activated_parameters_and_its_past(small: BackboneConfig) -> None:
    activated = count_parameters(Ours(small)).activated - VOCABULARY * small.width
    past = 2 * small.num_layers * 100 * 6 * 8
    assert step_bytes(small, 1, 100, 0, None, 4) == pytest.approx(4 * (activated + past))


def test_predictions_go_to_the_bound_of_attention_alone() -> None:
    """12 layers against 2 token layers and 10 concept layers with a quarter of the map: 2.67 times."""
    plain = with_kv_heads(6)
    matched = variants(2.0, plain)["1L-top5-R2"]
    length, bound = 10**9, 12 / (2 + 10 / 4)
    assert prefill_flops(plain, 1, length, None) / prefill_flops(matched, 1, length, 2.0) == pytest.approx(
        bound, rel=1e-3
    )
    steps = REGULAR.rows(1, 0, 16)
    found = predict_bytes(plain, 1, length, None, torch.float32) / predict_bytes(
        matched, 1, length, steps, torch.float32
    )
    assert found == pytest.approx(bound, rel=1e-3)
