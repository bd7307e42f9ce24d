"""Pictures beside text, and weights on disk and under the optimizer: invariants 21 and 22 of the design notes."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.vlm.backbone.kinds import (
    CHUNKED,
    KINDS,
    PLAIN,
    SUM,
    backbone_of,
    places,
    some_boundaries,
    train_with,
    vectors,
)
from vlm.backbone import ChunkConfig, ConceptMoE, Documents, backbone_config
from vlm.training.optim import parameter_groups

IS_IMAGE = torch.tensor([False] * 5 + [True] * 6 + [False] * 3 + [True] * 2 + [False] * 4)  # 11 tokens, then 9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_a_document_of_text_does_not_notice_a_picture_in_another_one(kind: str, training: bool) -> None:
    """[21] Whatever stands there, whatever its positions, and whether it is counted as a picture."""
    backbone, lengths = backbone_of(kind), [8, 7, 5]
    closes = some_boundaries(lengths)
    results = []
    for seed in (1, 2):
        x, positions, is_image = vectors(20), places(20), torch.zeros(20, dtype=torch.bool)
        x[8:15], positions[8:15] = vectors(7, seed=seed + 3), places(7, seed=seed + 3)
        is_image[9:13] = seed == 2
        if training:
            out = train_with(backbone, x, lengths, closes, positions, is_image)
        else:
            out = backbone(x, Documents.from_lengths(lengths), positions, is_image)
        results.append(out.hidden.split(lengths))
    for document in (0, 2):
        torch.testing.assert_close(results[0][document], results[1][document], atol=1e-12, rtol=0)
    assert (results[0][1] - results[1][1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", CHUNKED)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_counts_of_text_and_of_pictures_sum_to_those_of_all(kind: str, training: bool) -> None:
    """[21] By the threshold, also in training: it is what evaluation will see."""
    backbone, lengths = backbone_of(kind), [11, 9]
    x, documents = vectors(20), Documents.from_lengths(lengths)
    if training:
        apart, whole = (
            train_with(backbone, x, lengths, some_boundaries(lengths), documents.offset_in_document, *is_image).chunks
            for is_image in ((IS_IMAGE,), ())
        )
    else:
        apart, whole = (backbone(x, documents, is_image=is_image).chunks for is_image in (IS_IMAGE, None))
    assert apart is not None
    assert whole is not None
    closes = apart.prob >= 0.5
    assert apart.counts == ((12, int(closes[~IS_IMAGE].sum())), (8, int(closes[IS_IMAGE].sum())))
    assert whole.counts == ((20, int(closes.sum())), (0, 0))


def test_the_edge_of_a_picture_is_a_place_like_any_other() -> None:
    """[21] One router and one rule: what is a picture is counted apart, and changes no probability."""
    backbone, documents = backbone_of("two targets"), Documents.from_lengths([11, 9])
    apart, whole = (backbone(vectors(20), documents, is_image=is_image) for is_image in (IS_IMAGE, None))
    torch.testing.assert_close(apart.hidden, whole.hidden, atol=0, rtol=0)
    assert apart.losses["ratio"] != whole.losses["ratio"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back_from_its_files(kind: str, tmp_path: Path) -> None:
    """[22] Settings through YAML, weights through safetensors: equal in every bit."""
    backbone, x, documents = backbone_of(kind), vectors(15), Documents.from_lengths([9, 6])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(asdict(backbone.config)))
    save_file(backbone.state_dict(), str(tmp_path / "model.safetensors"))
    config = backbone_config(yaml.safe_load((tmp_path / "config.yaml").read_text()))
    assert config == KINDS[kind]
    other = ConceptMoE(config).double().eval()
    other.load_state_dict(load_file(str(tmp_path / "model.safetensors")))
    assert torch.equal(other(x, documents).hidden, backbone(x, documents).hidden)


@pytest.mark.parametrize("kind", CHUNKED)
def test_all_weights_of_a_plain_moe_have_a_place_in_a_chunked_one(kind: str) -> None:
    """[22] Unchanged; new are the chunker, the joint projections, and the projectors of a wider concept model."""
    config = CHUNKED[kind]
    if config.concept.width is not None:
        config = replace(config, concept=replace(config.concept, width=None))  # a plain MoE has one width
    plain, converted = backbone_of(replace(config, chunk=None)), ConceptMoE(config).double()
    missing, unexpected = converted.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("chunker.") or ".joint_" in name for name in missing)
    state = converted.state_dict()
    assert all(torch.equal(state[name], value) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_decay_and_norms_and_biases_do_not(kind: str) -> None:
    """[22] The router's projections decay with the others, which moves no boundary: only their directions count."""
    backbone = backbone_of(kind)
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    decayed, kept = ([names[id(p)] for p in group["params"]] for group in parameter_groups(backbone, 0.1))  # type: ignore[attr-defined]
    assert all(name.endswith(("norm.weight", "layernorm.weight", ".bias")) for name in kept)
    assert not any("norm" in name or "bias" in name for name in decayed)
    assert sorted(decayed + kept) == sorted(names.values())
    assert ("chunker.q_proj.weight" in decayed) == (kind in CHUNKED)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_backbone_has_norms_of_one_biases_of_zero_and_no_other_constant(kind: str) -> None:
    """[22] Joint projections of zero excepted, where the config asks for them."""
    config = KINDS[kind]
    for name, parameter in ConceptMoE(config).named_parameters():
        values = parameter.detach()
        if name.endswith(".bias"):
            assert (values == 0).all()
        elif "norm" in name:
            assert (values == 1).all()
        elif ".joint_" in name and config.chunk is not None and config.chunk.joint == "zero":
            assert (values == 0).all()
        else:
            assert values.std() > 0.05


@pytest.mark.parametrize("base", [SUM, PLAIN["plain"]], ids=["sum", "plain"])
def test_weights_that_write_to_the_stream_start_smaller_by_the_root_of_twice_the_layers(base: object) -> None:
    """[22]"""
    config = replace(SUM if base is SUM else PLAIN["plain"], width=120, init_std=0.02)
    weights = dict(ConceptMoE(config).named_parameters())
    small, large = weights["encoder.0.self_attn.o_proj.weight"], weights["encoder.0.self_attn.q_proj.weight"]
    ratio = (large.std() / small.std()).item()
    # Five layers; 2,880 normal numbers in each give a ratio within 1.9% (one standard error of it), so 8% is four.
    assert ratio == pytest.approx(10**0.5, rel=0.08)


def test_a_config_of_a_delta_residual_names_itself_in_its_file() -> None:
    """[22] Every setting of the chunker survives, none is a default by accident."""
    chunk = ChunkConfig(
        compression=3.0,
        compression_image=5.0,
        merge="last",
        tau=None,
        sigma=0.2,
        ratio_weight=0.1,
        ratio_share="threshold",
        residual="delta",
        positions="count",
        joint="zero",
    )
    default = ChunkConfig(compression=2.0)
    assert all(value != getattr(default, name) for name, value in asdict(chunk).items())
    config = replace(SUM, chunk=chunk)
    assert backbone_config(yaml.safe_load(yaml.safe_dump(asdict(config)))) == config
