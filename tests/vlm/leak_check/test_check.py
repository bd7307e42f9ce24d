"""No leak is found where there is none, and every leak that is put into a real part is found, and named."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.batch import Batch
from encoders.patch_encoder import PatchEncoder
from encoders.protocol import Features, encode_by_size
from tests.vlm.backbone.kinds import KINDS
from vlm.backbone import Documents, block, concept_moe, scan
from vlm.backbone.block import Block
from vlm.backbone.chunk import Chunker
from vlm.backbone.experts import Router
from vlm.backbone.layers import Rotary
from vlm.connector import ConnectorConfig
from vlm.leak_check import probes
from vlm.leak_check.check import check_leaks, packings
from vlm.leak_check.ledger import PROBES, Finding
from vlm.leak_check.records import Record
from vlm.model import VisionLanguageModel

ModelOf = Callable[..., VisionLanguageModel]
RecordsOf = Callable[[VisionLanguageModel], list[Record]]
QUICK = ("sum", "counted", "plain", "two targets", "wide delta looped")
FITS: dict[str, dict[str, object]] = {
    "native": {"fit": "native", "max_pixels": 32 * 96},
    "tiles": {"fit": "tiles", "max_tiles": 4},
}
PATCHES = {"name": "encoders.patch_encoder.PatchEncoder", "size_px": 32, "patch_px": 8, "width": 6}


def leaks(model: VisionLanguageModel, records: Sequence[Record], rows: int = 1) -> dict[str, str]:
    """What leaked, in words, by probe."""
    findings = check_leaks(model, records, num_rows=rows)
    return {finding.probe: " | ".join(finding.leaks) for finding in findings if finding.leaks}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in QUICK else pytest.mark.slow) for kind in KINDS], ids=list(KINDS)
)
def test_no_kind_of_backbone_leaks(kind: str, model_of: ModelOf, records_of: RecordsOf) -> None:
    model = model_of(kind)
    findings = check_leaks(model, records_of(model), num_rows=2)
    assert [finding.leaks for finding in findings if finding.leaks] == []
    tried = {(finding.probe, finding.mode) for finding in findings if finding.compared}
    untried = set() if model.config.backbone.chunk else {"concepts of one record"}
    assert tried == {(probe, mode) for probe in PROBES.keys() - untried for mode in ("evaluation", "training")}


@pytest.mark.long
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(
    "connector",
    [ConnectorConfig(merge=2, row_end=True), ConnectorConfig(kind="resampler", num_vectors=5)],
    ids=lambda connector: connector.kind,
)
def test_no_fit_of_pictures_and_no_connector_leaks(
    fit: str, connector: ConnectorConfig, model_of: ModelOf, records_of: RecordsOf
) -> None:
    model = model_of(encoder=PATCHES | FITS[fit], connector=connector)
    assert leaks(model, records_of(model)) == {}


def test_a_model_of_text_alone_is_checked_on_the_words(model_of: ModelOf, records_of: RecordsOf) -> None:
    model = model_of(encoder=None)
    records = records_of(model)
    assert {record.kind for record in records} == {"text alone"}
    findings = check_leaks(model, records, num_rows=2)
    assert [finding.leaks for finding in findings if finding.leaks] == []
    assert not [finding for finding in findings if "pictures in" in finding.probe and finding.compared]


def test_the_model_is_afterwards_as_it_was(model_of: ModelOf, records_of: RecordsOf) -> None:
    model = model_of().train()
    model.connector.eval()
    model.encoder.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    learns = [parameter.requires_grad for parameter in model.parameters()]
    check_leaks(model, records_of(model), num_rows=1)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == learns
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "encode" not in vars(model.encoder)
    assert not model.embed._forward_hooks
    assert not model.backbone.encoder[0]._forward_pre_hooks


def test_packings_mix_all_kinds_in_several_orders(model_of: ModelOf, records_of: RecordsOf) -> None:
    records = records_of(model_of())
    assert {record.kind for record in records} == {"text alone", "one picture", "several pictures"}
    rows = packings(records, 8, seed=0)
    assert [len({record.kind for record in row}) for row in rows[:3]] == [3, 3, 3]
    assert sorted(record.seed for record in rows[0]) == sorted(record.seed for record in rows[1])
    assert len(rows[3]) > 12
    others = packings(records, 8, seed=1)
    assert [[record.seed for record in row] for row in others] != [[record.seed for record in row] for row in rows]


# What is put into the model: where it is patched, with what; a probe that finds it; words that name its place.


def merged_documents(documents: Documents, like: Tensor) -> Any:
    return LAY_OUT(Documents.from_lengths([documents.num_tokens]), like)


def smoothing_without_reset(concepts: Tensor, prob: Tensor, *more: Any) -> Tensor:
    return SMOOTH(concepts, prob.clamp(max=0.9), *more)


def prob_of_one_document(self: Chunker, x: Tensor, keys: Tensor, documents: Documents, *more: Any) -> Tensor:
    return PROB(self, x, keys, Documents.from_lengths([documents.num_tokens]), *more)


def merging_of_all(self: Chunker, x: Tensor, closes: Tensor, boundary: Tensor, documents: Documents) -> Any:
    return MERGE(self, x, closes, boundary, Documents.from_lengths([documents.num_tokens]))


def boundaries_one_late(prob: Tensor, *more: Any) -> Tensor:
    return DRAW(prob, *more).roll(1) | (torch.arange(len(prob)) == 0)


def scores_beside_their_mean(self: Router, x: Tensor) -> Any:
    return RANK(self, x - x.mean(0))


def block_that_looks_ahead(self: Block, x: Tensor, stream: Any, *more: Any) -> Any:
    following = x.roll(-1, 0).masked_fill(stream.documents.is_start.roll(-1)[:, None], 0.0)
    return BLOCK(self, x + 0.1 * following, stream, *more)


def positions_of_the_row(self: Rotary, positions: Tensor, dtype: torch.dtype) -> Any:
    return ROTARY(self, torch.arange(len(positions)), dtype)


def pictures_reversed(self: PatchEncoder, images: Sequence[Tensor]) -> Features:
    return ENCODE(self, images[::-1])


def pictures_that_are_mixed(self: PatchEncoder, images: Sequence[Tensor]) -> Features:
    return ENCODE(self, [image + 0.01 * images[0] for image in images])


def backward_without_reset(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Values stay right: the gradient alone goes into the record before."""
    decay, state = ctx.saved_tensors
    value_grad = scan._scan((decay * 0 + 0.5).flip(0), grad.flip(0)).flip(0)
    return torch.cat([decay.new_zeros(1), (value_grad[1:] * state[:-1]).sum(-1)]), value_grad


def positions_that_run_on(*arguments: Any, **named: Any) -> Batch:
    batch = COLLATE(*arguments, **named)
    batch.positions.copy_(torch.arange(len(batch.ids))[:, None].expand(-1, 3))
    return batch


LAY_OUT, SMOOTH, DRAW, COLLATE = block.lay_out, concept_moe.smooth, concept_moe.draw_boundaries, probes.collate
PROB, MERGE, RANK, BLOCK, ROTARY = Chunker.prob, Chunker.merge, Router.rank, Block.forward, Rotary.forward
ENCODE = PatchEncoder.encode

INJECTED: dict[str, tuple[object, str, object, str, str]] = {
    "attention over all documents": (
        block,
        "lay_out",
        merged_documents,
        "other text beside it",
        "the attention of backbone.encoder.0",
    ),
    "smoothing without reset": (
        concept_moe,
        "smooth",
        smoothing_without_reset,
        "other text beside it",
        "the smoothing of concepts",
    ),
    "no boundary at a document's start": (
        Chunker,
        "prob",
        prob_of_one_document,
        "packed as alone",
        "the chunker's probabilities",
    ),
    "open tokens go into the next record": (
        Chunker,
        "merge",
        merging_of_all,
        "concepts of one record",
        "the merging of tokens into concepts",
    ),
    "boundaries one token late": (
        concept_moe,
        "draw_boundaries",
        boundaries_one_late,
        "packed as alone",
        "the drawing of boundaries",
    ),
    "a router that centres the row": (
        Router,
        "rank",
        scores_beside_their_mean,
        "gradient to others' tokens",
        "the experts or the dense layer of backbone.",
    ),
    "a block that looks ahead": (
        Block,
        "forward",
        block_that_looks_ahead,
        "later tokens and pictures",
        "backbone.encoder.0",
    ),
    "positions of the row in the model": (
        Rotary,
        "forward",
        positions_of_the_row,
        "packed as alone",
        "the positions of tokens",
    ),
    "positions that run on in the batch": (
        probes,
        "collate",
        positions_that_run_on,
        "positions from 0",
        "in the batch",
    ),
    "pictures in another order": (PatchEncoder, "encode", pictures_reversed, "pictures in their slots", "picture "),
    "pictures mixed by the encoder": (
        PatchEncoder,
        "encode",
        pictures_that_are_mixed,
        "packed as alone",
        "the vision encoder",
    ),
    "gradient without reset": (
        scan._LinearScan,
        "backward",
        staticmethod(backward_without_reset),
        "gradient to others' tokens",
        "the smoothing of concepts",
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", INJECTED)
def test_a_leak_that_is_put_into_a_part_is_found_and_named(
    name: str, model_of: ModelOf, records_of: RecordsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, attribute, faulty, probe, words = INJECTED[name]
    model = model_of()
    records = records_of(model)
    monkeypatch.setattr(place, attribute, faulty)
    found = leaks(model, records)
    assert words in found.get(probe, ""), found


def test_a_gradient_that_leaks_alone_changes_no_value(
    model_of: ModelOf, records_of: RecordsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of()
    records = records_of(model)
    monkeypatch.setattr(scan._LinearScan, "backward", staticmethod(backward_without_reset))
    found = leaks(model, records)
    assert found
    assert all("gradient" in probe for probe in found)


class NormedEncoder(PatchEncoder):
    """Patches behind a batch norm, as in a convolutional tower that learns."""

    def __init__(self) -> None:
        super().__init__(size_px=32, patch_px=8, width=6)
        self.norm = nn.BatchNorm2d(6)

    def encode(self, images: Sequence[Tensor]) -> Features:
        return encode_by_size(self, images, lambda batch: self.norm(self.project(batch)))


class NoisyEncoder(PatchEncoder):
    """Draws noise in training that nobody knows of."""

    def encode(self, images: Sequence[Tensor]) -> Features:
        noisy = [image + 0.1 * torch.randn(image.shape).to(image) if self.training else image for image in images]
        return super().encode(noisy)


@pytest.mark.parametrize("learns", [True, False])
def test_batch_norms_that_learn_couple_the_pictures_of_a_row_and_frozen_ones_do_not(
    learns: bool, model_of: ModelOf, records_of: RecordsOf
) -> None:
    model = model_of()
    model.encoder = NormedEncoder().double().requires_grad_(learns)
    findings = check_leaks(model, records_of(model), num_rows=2)
    told = [leak for finding in findings for leak in finding.leaks]
    assert bool(told) == learns
    assert all(finding.mode == "training" for finding in findings if finding.leaks)
    if learns:
        assert "1 batch norms (norm is the first) take the mean over all pictures of the row: freeze" in told[0]


def test_noise_of_the_models_own_is_told_as_such(model_of: ModelOf, records_of: RecordsOf) -> None:
    model = model_of()
    model.encoder = NoisyEncoder(size_px=32, patch_px=8, width=6).double()
    found = leaks(model, records_of(model))
    assert "the model draws noise of its own" in found["same row twice"]
    assert "the vision encoder" in found["same row twice"]


def test_dropout_does_not_count_as_noise(model_of: ModelOf, records_of: RecordsOf) -> None:
    model = model_of()
    model.connector.down_proj = nn.Sequential(nn.Dropout(0.5), model.connector.down_proj)
    assert leaks(model, records_of(model), rows=1) == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_rows": 0}, "the number of rows must be at least 1, got 0"),
        ({"records": []}, "there are no records to pack"),
    ],
)
def test_what_cannot_be_checked_is_refused(
    change: dict[str, Any], words: str, model_of: ModelOf, records_of: RecordsOf
) -> None:
    model = model_of()
    with pytest.raises(ValueError, match=words):
        check_leaks(model, **({"records": records_of(model)} | change))


def test_a_model_in_half_precision_is_refused(model_of: ModelOf, records_of: RecordsOf) -> None:
    model = model_of()
    records = records_of(model)
    with pytest.raises(ValueError, match="float64 or float32, got a model in torch.bfloat16".replace(".", "[.]")):
        check_leaks(model.bfloat16(), records)


def test_float32_finds_none_within_its_own_tolerance(model_of: ModelOf, records_of: RecordsOf) -> None:
    model = model_of("plain")
    findings: list[Finding] = check_leaks(model.float(), records_of(model), num_rows=2)
    assert [finding.leaks for finding in findings if finding.leaks] == []
    assert {finding.allowed for finding in findings} == {0.0, 1e-3}
