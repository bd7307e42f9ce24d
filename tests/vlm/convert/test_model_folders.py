"""Model folders: dtypes and shards survive, what changed is refused by name, and `vlm convert doctor` says what a folder is."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.vlm.convert.conftest import Vlm
from tests.vlm.convert.pretrained import make_model, make_tokenizer, save
from vlm.backbone import BackboneConfig, Documents, ExpertsConfig
from vlm.connector import ConnectorConfig
from vlm.convert.from_hf import import_model
from vlm.model import ModelConfig, VisionLanguageModel
from vlm.model_folder import start_from

pytestmark = pytest.mark.long

ENCODER = {"name": "encoders.patch_encoder.PatchEncoder", "size_px": 32, "patch_px": 16, "width": 12}


def small_model(tie_embeddings: bool = True) -> VisionLanguageModel:
    torch.manual_seed(0)
    backbone = BackboneConfig(
        width=16,
        num_heads=2,
        num_kv_heads=1,
        head_width=8,
        encoder_layers=1,
        concept_layers=1,
        decoder_layers=1,
        experts=ExpertsConfig(num_experts=2, top_k=1, hidden=8),
        chunk=None,
    )
    config = ModelConfig(
        tokenizer="demo",
        encoder=ENCODER,
        connector=ConnectorConfig(),
        backbone=backbone,
        tie_embeddings=tie_embeddings,
    )
    return VisionLanguageModel(config).eval()


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    small_model().save_pretrained(tmp_path / "model", shard_bytes=20_000)
    return tmp_path / "model"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shard_bytes", [10**9, 20_000], ids=["one file", "shards"])
@pytest.mark.parametrize("tie_embeddings", [True, False], ids=["tied", "own head"])
def test_every_bit_and_every_dtype_survives(
    dtype: torch.dtype, shard_bytes: int, tie_embeddings: bool, tmp_path: Path
) -> None:
    model = small_model(tie_embeddings).to(dtype)
    model.backbone.norm.float()  # a dtype of its own
    model.save_pretrained(tmp_path / "model", shard_bytes=shard_bytes)
    loaded = VisionLanguageModel.from_pretrained(tmp_path / "model")
    saved, found = model.state_dict(), loaded.state_dict()
    assert found.keys() == saved.keys()
    for name, value in saved.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    shards = len(list((tmp_path / "model").glob("model-*")))
    assert (shards > 1) == (shard_bytes < 10**9)
    load_file(next((tmp_path / "model").glob("*.safetensors")))  # also by their own reader


def test_a_head_of_its_own_makes_the_logits() -> None:
    model = small_model(tie_embeddings=False)
    assert model.head is not None
    hidden = torch.randn(3, 16)
    torch.testing.assert_close(model.logits(hidden), model.head(hidden))


def test_what_was_recorded_is_what_sha256sum_finds(model_folder: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=model_folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(list(model_folder.iterdir())) - 1


def first_shard(folder: Path) -> Path:
    return min(folder.glob("model-*.safetensors"))


def change_a_byte(folder: Path) -> None:
    content = bytearray(first_shard(folder).read_bytes())
    content[-1] ^= 1
    first_shard(folder).write_bytes(content)


def drop_a_tensor(folder: Path) -> None:
    weights = load_file(first_shard(folder))
    weights.pop("embed.weight", None)
    save_file(weights, first_shard(folder))


def change_a_shape(folder: Path) -> None:
    weights = load_file(first_shard(folder))
    save_file(weights | {"embed.weight": torch.zeros(4096, 8)}, first_shard(folder))


def replace_by_a_pickle(folder: Path) -> None:
    torch.save({"x": torch.ones(1)}, first_shard(folder))


def leave_a_pickle_alone(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    torch.save({"x": torch.ones(1)}, folder / "model.pt")


def change_the_tokenizer(folder: Path) -> None:
    content = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(content + "\n")


def take_another_tokenizer(folder: Path) -> None:
    from data.tokenizer import SPECIAL_TOKENS

    make_tokenizer(SPECIAL_TOKENS).save(str(folder / "tokenizer.json"))


def change_the_config(folder: Path) -> None:
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("rope_theta: 10000.0", "rope_theta: 20000.0"))


FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (change_a_byte, "safetensors changed since it was written: its SHA-256 is"),
    (drop_a_tensor, "lacks embed.weight"),
    (change_a_shape, "embed.weight is (4096, 8) there and (4096, 16) here"),
    (replace_by_a_pickle, "safetensors is a pickle under another name, which can run code and is never opened"),
    (leave_a_pickle_alone, "has its weights in model.pt, a pickle, which can run code and is never opened"),
    (change_the_tokenizer, "tokenizer.json is another tokenizer than the model was saved with"),
    (
        take_another_tokenizer,
        "tokenizer.json is another tokenizer than the model's: it has 287 tokens and the embedding 4096",
    ),
    (change_the_config, "config.yaml changed since the model was saved"),
    (lambda folder: first_shard(folder).unlink(), "which model.safetensors.index.json names; fetch or save"),
    (lambda folder: (folder / "model.safetensors.index.json").write_text("{}"), "is no index of shards"),
    (lambda folder: (folder / "SHA256SUMS").write_text("no sums"), "SHA256SUMS is not what `sha256sum` writes"),
]


@pytest.mark.parametrize(("change", "told"), FAULTS, ids=[told for _, told in FAULTS])
def test_a_changed_folder_is_refused_by_name(change: Callable[[Path], object], told: str, model_folder: Path) -> None:
    VisionLanguageModel.from_pretrained(model_folder)
    change(model_folder)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        VisionLanguageModel.from_pretrained(model_folder)
    assert told in str(error.value)


def test_a_meant_change_is_taken_when_its_line_is_gone(model_folder: Path) -> None:
    change_the_config(model_folder)
    sums = (model_folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    (model_folder / "SHA256SUMS").write_text("".join(line for line in sums if "config.yaml" not in line))
    assert VisionLanguageModel.from_pretrained(model_folder).config.backbone.rope_theta == 20_000


def test_a_run_does_not_start_from_a_changed_folder_and_casts_what_it_starts_from(model_folder: Path) -> None:
    small_model().bfloat16().save_pretrained(model_folder, shard_bytes=20_000)
    saved, new = VisionLanguageModel.from_pretrained(model_folder).state_dict(), small_model().double()
    with torch.no_grad():
        new.embed.weight.zero_()
    start_from(new, model_folder)
    assert all(torch.equal(value, saved[name].double()) for name, value in new.state_dict().items())
    change_a_byte(model_folder)
    with pytest.raises(ValueError, match="changed since it was written"):
        start_from(new, model_folder)


def test_a_folder_without_sums_is_read_and_doctor_says_so(model_folder: Path, vlm: Vlm) -> None:
    (model_folder / "SHA256SUMS").unlink()
    VisionLanguageModel.from_pretrained(model_folder)
    code, out, _ = vlm("convert", "doctor", model_folder)
    assert code == 0
    assert "no record" in out


def test_doctor_tells_what_a_folder_is(model_folder: Path, vlm: Vlm) -> None:
    code, out, err = vlm("convert", "doctor", model_folder)
    assert (code, err) == (0, "")
    assert "plain: 1 + 1 + 1 layers of 16, 2 experts, 1 chosen; the head is the embedding; pictures by encoders" in out
    code, out, _ = vlm("convert", "doctor", model_folder, "--json")
    told, model = json.loads(out), VisionLanguageModel.from_pretrained(model_folder)
    assert told["parts"]["embed"] == {"parameters": 4096 * 16, "bytes": 4096 * 64, "dtypes": ["float32"]}
    assert {name: one["shape"] for name, one in told["tensors"].items()} == {
        name: list(value.shape) for name, value in model.state_dict().items()
    }
    assert {one["state"] for one in told["files"].values()} == {"ok"}
    assert told["faults"] == []


def test_doctor_names_every_fault_with_exit_code_2(model_folder: Path, vlm: Vlm) -> None:
    change_a_byte(model_folder)
    change_the_tokenizer(model_folder)
    (model_folder / "chat_template.jinja").write_text("{{ '<|im_start|>' }}<|end|>")
    weights = load_file(max(model_folder.glob("model-*.safetensors")))
    name = next(name for name, value in weights.items() if value.is_floating_point())
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, max(model_folder.glob("model-*.safetensors")))
    code, out, err = vlm("convert", "doctor", model_folder)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert out.count("changed") == 3
    for told in (
        f"{first_shard(model_folder).name} is not what the model was saved with",
        "tokenizer.json is another tokenizer than the model was saved with",
        f"{name} has 1 values that are no numbers",
        "the chat template writes <|im_start|>, which the tokenizer does not have",
    ):
        assert told in err


@pytest.mark.parametrize(("change", "told"), FAULTS, ids=[told for _, told in FAULTS])
def test_doctor_refuses_what_loading_refuses(
    change: Callable[[Path], object], told: str, model_folder: Path, vlm: Vlm
) -> None:
    change(model_folder)
    code, _, err = vlm("convert", "doctor", model_folder)
    assert (code, len(err.splitlines())) == (2, 1), err


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_imported_model_answers(dtype: torch.dtype, tmp_path: Path, vlm: Vlm) -> None:
    import_model(str(save(make_model("qwen3 moe", dtype), tmp_path / "hf")), tmp_path / "model", shard_bytes=30_000)
    assert vlm("convert", "doctor", tmp_path / "model")[0] == 0
    asked = ("generate", "--model", tmp_path / "model", "--prompt", "the red", "--max-new-tokens", 4, "--json")
    code, out, _ = vlm(*asked)
    assert code == 0
    assert json.loads(out)["answer_tokens"] == 4
    model = VisionLanguageModel.from_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "again")
    shutil.rmtree(tmp_path / "model")
    ids = torch.arange(9)
    again = VisionLanguageModel.from_pretrained(tmp_path / "again")
    with torch.no_grad():
        hidden = [one.backbone(one.embed(ids), Documents.from_lengths([9])).hidden for one in (model, again)]
    assert torch.equal(*hidden)
    assert (tmp_path / "again" / "chat_template.jinja").exists()
