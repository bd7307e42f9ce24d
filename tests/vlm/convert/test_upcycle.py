"""An upcycled model computes what its dense source computes, and its copies learn apart."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.batch import Batch
from tests.vlm.convert.conftest import Vlm
from tests.vlm.convert.pretrained import make_model, save
from vlm.backbone import BackboneConfig, ChunkConfig, Documents, ExpertsConfig
from vlm.backbone.config import ConceptConfig, LoopConfig
from vlm.backbone.cost import count_parameters
from vlm.connector import ConnectorConfig
from vlm.convert.from_hf import import_model
from vlm.convert.names import layer_numbers
from vlm.convert.upcycle import upcycle
from vlm.model import ModelConfig, VisionLanguageModel

ROOT = Path(__file__).resolve().parents[3]
ENCODER = {"name": "encoders.patch_encoder.PatchEncoder", "size_px": 32, "patch_px": 16, "width": 12}
DENSE = ExpertsConfig(num_experts=1, top_k=1, hidden=24, normalize_top_k=False)
BACKBONE = BackboneConfig(
    width=16,
    num_heads=2,
    num_kv_heads=1,
    head_width=8,
    encoder_layers=1,
    concept_layers=2,
    decoder_layers=1,
    experts=DENSE,
    chunk=None,
)
LENGTHS = [17, 1, 5]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def dense_model(backbone: BackboneConfig = BACKBONE, encoder: dict[str, Any] | None = None) -> VisionLanguageModel:
    """A small model whose layers matter: their weights are as large as its width asks for."""
    torch.manual_seed(0)
    config = ModelConfig(tokenizer="demo", encoder=encoder, connector=ConnectorConfig(), backbone=backbone)
    model = VisionLanguageModel(config).eval()
    for parameter in model.backbone.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
    return model


@pytest.fixture
def source(tmp_path: Path) -> Path:
    dense_model().save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


def load(folder: Path) -> VisionLanguageModel:
    return VisionLanguageModel.from_pretrained(folder)


def token_ids(model: VisionLanguageModel) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randint(0, model.tokenizer.vocab_size, (sum(LENGTHS),), generator=random)


@torch.no_grad()
def in_one_pass(model: VisionLanguageModel) -> Tensor:
    return model.logits(model.backbone(model.embed(token_ids(model)), Documents.from_lengths(LENGTHS)).hidden)


@torch.no_grad()
def in_steps(model: VisionLanguageModel) -> Tensor:
    """A prompt, then a token at a time."""
    ids, cache = token_ids(model), model.backbone.new_cache(1, sum(LENGTHS))
    parts = ids.split([20, *[1] * (len(ids) - 20)])
    hidden = [model.backbone.prefill(model.embed(x), Documents.from_lengths([len(x)]), cache).hidden for x in parts]
    return model.logits(torch.cat(hidden))


def assert_equal_outputs(first: VisionLanguageModel, second: VisionLanguageModel) -> None:
    """Also that both are models of that one dtype, so that the tolerance is the right one."""
    (dtype,) = {parameter.dtype for model in (first, second) for parameter in model.parameters()}
    for run in (in_one_pass, in_steps):
        expected = run(first)
        assert expected.abs().max() > 0.5
        torch.testing.assert_close(run(second), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.long
@pytest.mark.parametrize("variant", ["llama", "llama, biased, own head width, linear", "qwen2", "qwen3"])
@DTYPES
def test_an_imported_model_computes_what_it_did(variant: str, dtype: torch.dtype, tmp_path: Path, vlm: Vlm) -> None:
    import_model(str(save(make_model(variant, dtype), tmp_path / "hf")), tmp_path / "dense")
    code, _, err = vlm("convert", "upcycle", tmp_path / "dense", tmp_path / "moe", "--experts", 8, "--top-k", 2)
    assert (code, err) == (0, "")
    assert_equal_outputs(load(tmp_path / "dense"), load(tmp_path / "moe"))
    assert vlm("convert", "doctor", tmp_path / "moe")[0] == 0
    for kept in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "moe" / kept).read_bytes() == (tmp_path / "dense" / kept).read_bytes()


OWN_LAYERS = ConceptConfig(experts=replace(DENSE, hidden=12), loop=LoopConfig(first=0, layers=1))


@pytest.mark.parametrize("concept", [ConceptConfig(), OWN_LAYERS], ids=["alike", "concept layers of their own"])
@pytest.mark.parametrize("top_k", [1, 2, 3])
@DTYPES
def test_a_model_of_ours_computes_what_it_did(
    concept: ConceptConfig, top_k: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    dense_model(replace(BACKBONE, concept=concept)).to(dtype).save_pretrained(tmp_path / "dense")
    upcycle(tmp_path / "dense", tmp_path / "moe", 3, top_k)
    moe = load(tmp_path / "moe")
    assert_equal_outputs(load(tmp_path / "dense"), moe)
    assert moe.config.backbone.experts == replace(DENSE, num_experts=3, top_k=top_k, normalize_top_k=True)
    assert moe.config.backbone.concept_block.experts.num_experts == 3


def a_picture_and_text(slots: int) -> Batch:
    random, n = torch.Generator().manual_seed(2), slots + 5
    ids = torch.randint(10, 50, (n,), generator=random)
    return Batch(
        ids=ids,
        labels=ids,
        positions=torch.arange(n)[:, None].expand(n, 3).contiguous(),
        lengths=(n,),
        is_image=torch.arange(n) < slots,
        images=(torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=random),),
        image_keys=("picture",),
        slots_per_image=(slots,),
        sample_ids=("0",),
        cursor=None,
        num_image_slots=slots,
        num_answered=n,
    )


def test_an_encoder_and_a_connector_pass_through(tmp_path: Path) -> None:
    dense_model(encoder=ENCODER).save_pretrained(tmp_path / "dense", shard_bytes=20_000)
    upcycle(tmp_path / "dense", tmp_path / "moe", 4, 2, shard_bytes=30_000)
    dense, moe = load(tmp_path / "dense"), load(tmp_path / "moe")
    assert dense.layout is not None
    batch = a_picture_and_text(dense.layout.slots)
    with torch.no_grad():
        torch.testing.assert_close(moe(batch).hidden, dense(batch).hidden, atol=1e-5, rtol=1e-5)
    before, after = dense.state_dict(), moe.state_dict()
    changed = {name for name, value in before.items() if name not in after or not torch.equal(value, after[name])}
    assert {name.split(".")[0] for name in before} == {"embed", "connector", "encoder", "backbone"}
    assert changed == {name for name in before if name.startswith("backbone.") and ".mlp." in name}
    assert len(list((tmp_path / "moe").glob("model-*.safetensors"))) > 1


def test_every_copy_is_the_dense_layer_and_every_dtype_is_kept(tmp_path: Path, vlm: Vlm) -> None:
    dense = dense_model().bfloat16()
    dense.backbone.norm.float()  # a dtype of its own
    dense.save_pretrained(tmp_path / "dense")
    upcycle(tmp_path / "dense", tmp_path / "moe", 4, 2, shard_bytes=20_000)
    assert len(list((tmp_path / "moe").glob("model-*.safetensors"))) > 1
    before, moe = dense.state_dict(), load(tmp_path / "moe")
    after = moe.state_dict()
    for layer in ("encoder.0", "concept.0", "concept.1", "decoder.0"):
        mlp = f"backbone.{layer}.mlp"
        gate, up, down = (before.pop(f"{mlp}.{kind}_proj.weight") for kind in ("gate", "up", "down"))
        for gate_up in after.pop(f"{mlp}.experts.gate_up_proj"):
            assert torch.equal(gate_up, torch.cat([gate, up]))
        for copy in after.pop(f"{mlp}.experts.down_proj"):
            assert torch.equal(copy, down)
        assert after.pop(f"{mlp}.gate.weight").dtype == torch.bfloat16
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert {name for name, value in after.items() if value.dtype == torch.float32} == {"backbone.norm.weight"}
    expected = in_one_pass(dense)
    # bfloat16 has 8 bits, and the chosen experts' sum is rounded once more in each of four layers.
    torch.testing.assert_close(in_one_pass(moe), expected, atol=float(expected.abs().max()) * 2**-5, rtol=0)
    assert vlm("convert", "doctor", tmp_path / "moe")[0] == 0


def by_depth(model: VisionLanguageModel, kind: str) -> list[Tensor]:
    """That weight of each feed-forward layer."""
    return [model.backbone.get_parameter(f"{layer}.mlp.{kind}") for layer in layer_numbers(model.config.backbone)]


def test_routers_depend_on_the_seed_and_the_layer_alone(source: Path, tmp_path: Path) -> None:
    other_names = replace(BACKBONE, encoder_layers=2, concept_layers=1)
    dense_model(other_names).double().save_pretrained(tmp_path / "renamed")
    upcycle(source, tmp_path / "moe", 8, 2, seed=3)
    upcycle(tmp_path / "renamed", tmp_path / "renamed moe", 8, 2, seed=3, noise=0.1, shard_bytes=20_000)
    upcycle(source, tmp_path / "other seed", 8, 2, seed=4)
    moe, again, other = (
        by_depth(load(tmp_path / name), "gate.weight") for name in ("moe", "renamed moe", "other seed")
    )
    for first, second in zip(moe, again, strict=True):
        torch.testing.assert_close(second, first.double(), rtol=1e-6, atol=0)
    distinct = [*moe, *other]
    assert not any(torch.equal(first, second) for i, first in enumerate(distinct) for second in distinct[:i])
    together = torch.cat(distinct)  # 1,024 numbers
    assert 0.018 < together.std() < 0.022
    assert abs(together.mean()) < 0.002


def test_the_same_command_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        upcycle(source, tmp_path / name, 4, 2, noise=0.5, seed=-1)
    assert (tmp_path / "first" / "SHA256SUMS").read_bytes() == (tmp_path / "second" / "SHA256SUMS").read_bytes()


def test_noise_is_the_asked_share_of_each_matrix_on_all_copies_but_the_first(source: Path, tmp_path: Path) -> None:
    upcycle(source, tmp_path / "moe", 3, 2, noise=0.25)
    dense, moe = load(source), load(tmp_path / "moe")
    assert not torch.allclose(in_one_pass(dense), in_one_pass(moe), atol=1e-3)
    drawn = []
    gate_up, down = by_depth(moe, "experts.gate_up_proj"), by_depth(moe, "experts.down_proj")
    copied: dict[str, Sequence[Tensor]] = {
        "gate": [both.chunk(2, dim=1)[0] for both in gate_up],
        "up": [both.chunk(2, dim=1)[1] for both in gate_up],
        "down": down,
    }
    for kind, layers in copied.items():
        for weight, copies in zip(by_depth(dense, f"{kind}_proj.weight"), layers, strict=True):
            assert torch.equal(copies[0], weight)
            for copy in copies[1:]:
                noise = (copy - weight).detach()
                assert 0.22 < noise.std() / weight.std() < 0.28  # 384 numbers: 0.25 with an error of 0.009
                drawn.append(noise.flatten() / noise.norm())
    alike = torch.stack(drawn) @ torch.stack(drawn).T - torch.eye(len(drawn))
    assert alike.abs().max() < 0.25  # of independent draws 0.05 on average


def test_copies_and_routers_learn_apart(source: Path, tmp_path: Path) -> None:
    upcycle(source, tmp_path / "moe", 4, 2)
    model = load(tmp_path / "moe").train()
    routers = by_depth(model, "gate.weight")
    begun = [router.detach().clone() for router in routers]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0)
    random = torch.Generator().manual_seed(5)
    largest: list[float] = []
    for _ in range(2):
        ids = torch.randint(0, model.tokenizer.vocab_size, (257,), generator=random)
        hidden = model.backbone(model.embed(ids[:-1]), Documents.from_lengths([200, 56])).hidden
        torch.nn.functional.cross_entropy(model.logits(hidden), ids[1:]).backward()
        largest.append(max(float(router.grad.abs().max()) for router in routers if router.grad is not None))
        optimizer.step()
        optimizer.zero_grad()
    assert largest[0] < 1e-3 * largest[1]  # equal copies tell a router nothing, up to rounding
    assert not any(torch.equal(router, first) for router, first in zip(routers, begun, strict=True))
    for weight in (*by_depth(model, "experts.gate_up_proj"), *by_depth(model, "experts.down_proj")):
        for first, second in pairwise(weight):
            assert (first - second).abs().max() > 1e-4


def test_the_report_has_the_figures_before_and_after(source: Path, tmp_path: Path, vlm: Vlm) -> None:
    asked = ("--experts", 8, "--top-k", 2)
    code, out, _ = vlm("convert", "upcycle", source, tmp_path / "moe", *asked, "--json")
    assert code == 0
    told = json.loads(out)
    models = {"before": load(source), "after": load(tmp_path / "moe")}
    counts = {when: count_parameters(model).total for when, model in models.items()}
    assert told["parameters"] == counts
    for when, model in models.items():
        assert told["backbone_parameters"][when] == count_parameters(model.backbone).total
        assert told["backbone_activated"][when] == count_parameters(model.backbone).activated
    written = {name: list(value.shape) for name, value in models["after"].state_dict().items()}
    assert {one["name"]: one["shape"] for one in told["tensors"]} == written
    # A second copy of gate, up and down; the router; the sum of two. All in each of four layers.
    added = 4 * (2 * 3 * 16 * 24 + 2 * 16 * 8 + 2 * 2 * 16)
    flops = told["backbone_flops_per_token"]
    assert flops["after"] - flops["before"] == added
    assert (told["layers"], told["experts"], told["top_k"], told["noise"], told["seed"]) == (4, 8, 2, 0, 0)
    code, out, _ = vlm("convert", "upcycle", source, tmp_path / "other", *asked, "--noise", 0.1)
    assert code == 0
    assert "8 x backbone.encoder.*.mlp.gate_proj.weight + backbone.encoder.*.mlp.up_proj.weight" in out
    assert "new, drawn at random" in out
    assert "34 other tensors are the source's" in out
    assert len(out.splitlines()) < 25
    assert f"{counts['before']:,}  {counts['after']:,}" in out
    assert "4 layers of 8 copies, 2 chosen, all but the first with noise of 0.1; seed 0" in out


def chunked() -> BackboneConfig:
    return replace(BACKBONE, chunk=ChunkConfig(compression=2.0))


def sparse() -> BackboneConfig:
    return replace(BACKBONE, experts=replace(DENSE, num_experts=5, top_k=2))


def sparse_concepts() -> BackboneConfig:
    return replace(BACKBONE, concept=ConceptConfig(experts=replace(DENSE, num_experts=6, top_k=1)))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (chunked, "dense is a ConceptMoE of 2 tokens per concept; only a plain dense model can be upcycled"),
        (sparse, "dense is a mixture of experts already, 5 with 2 chosen"),
        (sparse_concepts, "dense is a mixture of experts already, 6 with 1 chosen"),
    ],
)
def test_a_model_that_is_not_plain_and_dense_is_refused(
    config: Callable[[], BackboneConfig], told: str, tmp_path: Path, vlm: Vlm
) -> None:
    dense_model(config()).save_pretrained(tmp_path / "dense")
    refused(vlm, tmp_path, told)


def refused(vlm: Vlm, folder: Path, told: str, *options: object) -> None:
    """In one line, and nothing is left."""
    given = options or ("--experts", 4, "--top-k", 2)
    code, _, err = vlm("convert", "upcycle", folder / "dense", folder / "moe", *given)
    assert (code, told in err, len(err.splitlines())) == (2, True, 1), err
    assert [path.name for path in folder.iterdir()] == ["dense"]


def test_numbers_that_cannot_be_are_refused(source: Path, tmp_path: Path, vlm: Vlm) -> None:
    refused(vlm, tmp_path, "a mixture needs 2 experts or more, got 1", "--experts", 1, "--top-k", 1)
    refused(vlm, tmp_path, "top_k must be between 1 and num_experts=4, got 5", "--experts", 4, "--top-k", 5)
    for noise in (-0.1, "nan", "inf"):
        told = f"must be 0 or above, got {noise}"
        refused(vlm, tmp_path, told, "--experts", 4, "--top-k", 2, f"--noise={noise}")
    refused(vlm, tmp_path, "--shard-mb must be at least 1, got 0", "--experts", 4, "--top-k", 2, "--shard-mb", 0)


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_folder_whose_files_changed_is_refused_by_name(source: Path, tmp_path: Path, vlm: Vlm) -> None:
    change_a_byte(source / "model.safetensors")
    refused(vlm, tmp_path, "dense/model.safetensors changed since it was written: its SHA-256 is")
    (source / "SHA256SUMS").unlink()
    config = (source / "config.yaml").read_text()
    (source / "config.yaml").write_text(config.replace("hidden: 24", "hidden: 25"))
    refused(vlm, tmp_path, "mlp.down_proj.weight is (16, 24) there and (16, 25) here")
    (source / "config.yaml").unlink()
    refused(vlm, tmp_path, "dense is no model folder: it lacks config.yaml")


def test_gate_and_up_of_two_dtypes_are_refused(tmp_path: Path, vlm: Vlm) -> None:
    model = dense_model()
    model.backbone.get_submodule("concept.1.mlp.up_proj").double()
    model.save_pretrained(tmp_path / "dense")
    refused(vlm, tmp_path, "concept.1.mlp.gate_proj.weight is torch.float32 and backbone.concept.1.mlp.up_proj.weight")


def test_a_folder_in_the_way_stays(source: Path, tmp_path: Path, vlm: Vlm) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    code, _, err = vlm("convert", "upcycle", source, tmp_path / "mine", "--experts", 4, "--top-k", 2)
    assert code == 2
    assert "mine exists and is not empty" in err
    assert (tmp_path / "mine" / "letter.txt").exists()


def test_a_write_that_fails_in_the_middle_leaves_nothing(source: Path, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            upcycle(source, tmp_path / "moe", 8, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


PEAK = """
import sys
from pathlib import Path
from vlm.convert.upcycle import upcycle

def status(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024

folder = Path(sys.argv[1])
upcycle(folder / "small", folder / "warm", 2, 1)  # what torch allocates once for all
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
upcycle(folder / "dense", folder / "moe", 4, 2, noise=0.1)
print(status("VmHWM") - before)
"""


@pytest.mark.long
def test_the_peak_is_far_below_the_model(tmp_path: Path) -> None:
    dense_model().save_pretrained(tmp_path / "small")
    large = replace(BACKBONE, width=512, concept_layers=6, experts=replace(DENSE, hidden=1024))
    dense_model(large).save_pretrained(tmp_path / "dense")
    size = (tmp_path / "dense" / "model.safetensors").stat().st_size
    assert size > 55e6
    command = [sys.executable, "-c", PEAK, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "moe" / "model.safetensors").stat().st_size > 3 * size
    assert int(done.stdout) < 0.5 * size  # measured: 0.34, of which the embedding is 0.14
