"""An imported model computes what `transformers` computes, whatever its architecture, in one pass and step by step."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from tests.vlm.convert.pretrained import VARIANTS, make_model, precision_of, save
from vlm.backbone import Documents
from vlm.convert.from_hf import import_model
from vlm.model import VisionLanguageModel

pytestmark = pytest.mark.long

LENGTHS = [17, 1, 5]
TOKENS = 283  # of the tokenizer; rows beyond are padding there, and new tokens of ours here


def token_ids() -> Tensor:
    return torch.randint(0, TOKENS, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))


def logits_of(model: VisionLanguageModel, ids: Tensor) -> Tensor:
    hidden = model.backbone(model.embed(ids), Documents.from_lengths(LENGTHS)).hidden
    return model.logits(hidden)[:, :TOKENS]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["fp64", "fp32"])
@torch.no_grad()
def test_logits_are_those_of_transformers(variant: str, dtype: torch.dtype, tolerance: float, tmp_path: Path) -> None:
    theirs = make_model(variant, dtype)
    import_model(str(save(theirs, tmp_path / "hf")), tmp_path / "model")
    ours = VisionLanguageModel.from_pretrained(tmp_path / "model")
    assert {parameter.dtype for parameter in ours.parameters()} == {dtype}
    ids = token_ids()
    with precision_of(dtype):
        expected = [theirs(part[None], use_cache=False).logits[0, :, :TOKENS] for part in ids.split(LENGTHS)]
    assert torch.cat(expected).abs().max() > 1
    torch.testing.assert_close(logits_of(ours, ids), torch.cat(expected), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["fp64", "fp32"])
@torch.no_grad()
def test_cached_steps_give_the_logits_of_transformers(
    variant: str, dtype: torch.dtype, tolerance: float, tmp_path: Path
) -> None:
    theirs = make_model(variant, dtype)
    import_model(str(save(theirs, tmp_path / "hf")), tmp_path / "model", layers=(2, 2, 0))
    ours = VisionLanguageModel.from_pretrained(tmp_path / "model")
    ids, cache, past = token_ids(), ours.backbone.new_cache(1, 23), DynamicCache(config=theirs.config)
    for first, last in ((0, 18), (18, 19), (19, 20), (20, 23)):
        with precision_of(dtype):
            expected = theirs(ids[None, first:last], past_key_values=past, use_cache=True).logits[0, :, :TOKENS]
        hidden = ours.backbone.prefill(
            ours.embed(ids[first:last]), Documents.from_lengths([last - first]), cache
        ).hidden
        torch.testing.assert_close(ours.logits(hidden)[:, :TOKENS], expected, atol=tolerance, rtol=tolerance)
