"""The package's configs of real runs, and the page that explains them, through the real command with tiny stand-ins.

The walk of docs/stages.md is made in a folder that has what its user has, under the same names, only small. Each config
stands first; an overlay of `stages/` changes its sizes and nothing else.
"""

import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from data.sample import Part, parse_sample
from data.shards import open_shards, write_shard
from tests.vlm.commands.conftest import COLOURS, Record, Vlm, png, record
from tests.vlm.commands.stages.tower import pretrained_tower
from tests.vlm.convert.pretrained import make_model, save
from vlm.cli import main
from vlm.commands.configs import CONFIGS, load_yaml_strictly
from vlm.model import VisionLanguageModel

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[3]
OVERLAYS = Path(__file__).parent / "stages"
STAGES = ("pretrain", "continual", "align", "instruct")
# What a test must have small; everything else is the config's own. Sizes of a backbone come with a pretrained one.
LOCAL = {
    *("encoder", "data.row_tokens", "data.num_workers", "trainer.accumulate_grad_batches"),
    *(f"trainer.{name}" for name in ("accelerator", "devices", "precision", "max_steps", "val_check_interval")),
}
SIZES = {
    *(f"backbone.{name}" for name in ("width", "num_heads", "num_kv_heads", "head_width")),
    *(f"backbone.{name}" for name in ("encoder_layers", "concept_layers", "decoder_layers")),
    *(f"backbone.experts.{name}" for name in ("num_experts", "top_k", "hidden")),
}


def settings_of(path: Path) -> dict[str, Any]:
    return load_yaml_strictly(path.read_text(encoding="utf-8"))


def leaves(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"trainer": {"max_steps": 2}}` -> `{"trainer.max_steps": 2}`; the encoder's setting is one."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        is_group = isinstance(value, dict) and key != "encoder"
        found |= leaves(value, f"{prefix}{key}.") if is_group else {f"{prefix}{key}": value}
    return found


def code_blocks(language: str) -> list[str]:
    page = (ROOT / "docs" / "stages.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def text(number: int) -> Record:
    content = f"{COLOURS[number % len(COLOURS)]} is a colour, and {number} a number"
    return f"{number:04}", {"json": json.dumps({"id": str(number), "content": content}).encode()}


def pair(number: int) -> Record:
    """As img2dataset writes it."""
    colour = COLOURS[number % len(COLOURS)]
    told = {"caption": colour, "url": f"https://example.org/{number}.png", "key": f"{number:04}", "status": "success"}
    return f"{number:04}", {"png": png(colour), "txt": colour.encode(), "json": json.dumps(told).encode()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a user who has Qwen3-0.6B and the data sets, each of them tiny."""
    folder = tmp_path_factory.mktemp("stages")
    # As many layers as Qwen3-0.6B, so that the page's --layers holds.
    model = make_model("qwen3", torch.bfloat16, num_hidden_layers=28, max_position_embeddings=256)
    save(model, folder / "Qwen" / "Qwen3-0.6B")
    sources = {"fineweb-edu": text, "cc12m": pair, "llava-558k": record, "llava-665k": record}
    for name, make in sources.items():
        for split, numbers in {"train": range(90), "val": range(90, 99)}.items():
            write_shard(folder / "shards" / name / split / "000000.tar", [make(number) for number in numbers])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def walk(place: Path) -> Path:
    """The page's commands, one after another, and `pretrain.yaml`."""
    commands, *_ = code_blocks("bash")
    for line in [*commands.splitlines(), "vlm fit --config pretrain.yaml"]:
        program, *arguments = shlex.split(line)
        assert program == "vlm"
        overlay = ["--config", str(OVERLAYS / arguments[-1])] if arguments[0] == "fit" else []
        assert main([*arguments, *overlay]) == 0, line
    return place


def weights(folder: Path) -> dict[str, Tensor]:
    return {name: value.float() for name, value in VisionLanguageModel.from_pretrained(folder).state_dict().items()}


def test_the_page_walks_through_all_stages() -> None:
    commands, *_ = code_blocks("bash")
    assert re.findall(r"--config (\w+)\.yaml", commands) == ["continual", "align", "instruct"]


@pytest.mark.parametrize("stage", STAGES)
def test_an_overlay_changes_only_what_must_be_small(stage: str) -> None:
    allowed = LOCAL | (SIZES if stage == "pretrain" else set())
    assert leaves(settings_of(OVERLAYS / f"{stage}.yaml")).keys() <= allowed


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_two_steps_with_its_own_settings(walk: Path, stage: str) -> None:
    own, small = leaves(settings_of(CONFIGS / f"{stage}.yaml")), leaves(settings_of(OVERLAYS / f"{stage}.yaml"))
    saved = yaml.safe_load((walk / "runs" / stage / "config.yaml").read_text())
    used = leaves(saved)
    for key, value in (own | small).items():
        if key == "backbone":
            assert used["model.start"] == value
        elif key in ("data.train", "data.val"):
            given = [source if isinstance(source, dict) else {"path": source} for source in value]
            found = [source if isinstance(source, dict) else {"path": source} for source in used[key]]
            assert [one | theirs for one, theirs in zip(found, given, strict=True)] == found
        else:
            assert used[key] == value, key
    checkpoint = torch.load(walk / "runs" / stage / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2


@pytest.mark.parametrize("stage", STAGES)
def test_the_model_of_a_stage_loads_and_answers(walk: Path, stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = walk / "runs" / stage / "model"
    asked = ["generate", "--model", str(model), "--prompt", "the red", "--max-new-tokens", "4", "--json"]
    if stage != "continual":
        Image.new("RGB", (40, 30), "red").save(walk / "red.png")
        asked += ["--image", str(walk / "red.png")]
    assert main(asked) == 0
    assert json.loads(capsys.readouterr().out)["answer_tokens"] == 4
    assert main(["convert", "doctor", str(model)]) == 0


def unchanged(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if torch.equal(value, after[name])}


def test_continual_training_changes_every_weight_of_the_converted_model(walk: Path) -> None:
    before, after = weights(walk / "models" / "qwen3-conceptmoe"), weights(walk / "runs" / "continual" / "model")
    assert before.keys() == after.keys()
    assert any(name.startswith("backbone.chunker.") for name in before)
    assert any("joint" in name for name in before)
    assert unchanged(before, after) == set()


def test_align_changes_connector_and_chunker_and_nothing_else(walk: Path) -> None:
    before, after = weights(walk / "runs" / "continual" / "model"), weights(walk / "runs" / "align" / "model")
    chunker = {name for name in before if name.startswith("backbone.chunker.")}
    assert chunker
    assert unchanged(before, after) == before.keys() - chunker
    tower = {f"encoder.{name}": value for name, value in pretrained_tower().state_dict().items()}
    assert unchanged(tower, after) == tower.keys()
    connector = {name for name in after if name.startswith("connector.")}
    assert after.keys() == before.keys() | tower.keys() | connector
    assert not torch.equal(after["connector.norm.weight"], torch.ones(48))  # it began with ones


def test_instruct_begins_with_all_that_align_left_and_changes_it_all_the_tower_slowly(walk: Path) -> None:
    before, after = weights(walk / "runs" / "align" / "model"), weights(walk / "runs" / "instruct" / "model")
    assert before.keys() == after.keys()
    assert unchanged(before, after) == set()
    moved = {name: float((after[name] - value).abs().max()) for name, value in before.items()}
    optimizer = settings_of(CONFIGS / "instruct.yaml")["optimizer"]
    share = (1 + 2) / optimizer["warmup_steps"]  # of the peak rate, in the first two steps together
    # Adam moves a weight by the rate and hardly more; float32 rounds at weights of about 1, and of a third in the tower.
    for name, distance in moved.items():
        is_tower = name.startswith("encoder.")
        rate, rounding = (optimizer["lr_of"]["encoder"], 3e-8) if is_tower else (optimizer["lr"], 2.4e-7)
        assert distance <= 1.05 * rate * share + rounding, name


def test_pretraining_leaves_the_tower_as_it_was_and_trains_the_rest(walk: Path) -> None:
    after = weights(walk / "runs" / "pretrain" / "model")
    tower = {f"encoder.{name}": value for name, value in pretrained_tower().state_dict().items()}
    assert unchanged(tower, after) == tower.keys()
    norms = {name: value for name, value in after.items() if re.search(r"norm\w*\.weight$", name)}
    assert {name.split(".")[0] for name in norms} == {"backbone", "connector"}
    assert not any(torch.equal(value, torch.ones_like(value)) for value in norms.values())  # they began with ones


def test_an_overlay_starts_a_stage_from_another_model_with_or_without_a_chunker(
    walk: Path, vlm: Vlm, tmp_path: Path
) -> None:
    """The config's own model need not be there, and the overlay may lie anywhere."""
    overlay = tmp_path / "mine.yaml"
    for name in ("models/qwen3", f"hf:{walk / 'Qwen' / 'Qwen3-0.6B'}"):
        plain = {"backbone": name, "model": {"train_only": ["connector"]}, "optimizer": {"lr_of": {}}}
        overlay.write_text(yaml.safe_dump(plain | {"encoder": "tests.vlm.commands.stages.tower.pretrained_tower"}))
        (walk / "runs" / "continual").rename(walk / "runs" / "elsewhere")
        try:
            code, out, err = vlm("plan", "--config", "align.yaml", "--config", str(overlay), "--json")
        finally:
            (walk / "runs" / "elsewhere").rename(walk / "runs" / "continual")
        assert code == 0, err
        assert "backbone: chunker's router" not in json.loads(out)["parameters"]


def test_a_mapping_over_a_pretrained_model_changes_that_model(walk: Path, vlm: Vlm, tmp_path: Path) -> None:
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("backbone: {chunk: {compression: 3.0}}\n")
    compression = {}
    for configs in (["continual.yaml"], ["continual.yaml", str(overlay)]):
        code, out, err = vlm("plan", *(part for one in configs for part in ("--config", one)), "--json")
        assert code == 0, err
        compression[len(configs)] = json.loads(out)["models"][1]["kv_reduction_concepts"]
    assert compression == pytest.approx({1: 1.5, 2: 3.0})


def test_without_the_model_of_the_stage_before_the_error_says_what_to_do(
    vlm: Vlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for stage, missing in (("continual", "models/qwen3-conceptmoe"), ("align", "runs/continual/model")):
        for command in ("plan", "fit"):
            code, out, err = vlm(command, "--config", f"{stage}.yaml")
            assert (code, out, len(err.splitlines())) == (2, "", 1), err
            assert f"backbone: {missing}, which is neither a model folder nor a file" in err
            assert "docs/stages.md" in err
    assert not list(tmp_path.iterdir())


def test_the_pages_table_has_the_rates_and_steps_of_the_configs() -> None:
    page = (ROOT / "docs" / "stages.md").read_text(encoding="utf-8")
    table = page[page.index("| stage |") : page.index("## ")]
    rows = {cells[1].strip(" `"): cells for line in table.splitlines() if len(cells := line.split("|")) == 7}
    for stage in STAGES:
        config = settings_of(CONFIGS / f"{stage}.yaml")
        trainer, optimizer = config["trainer"], config["optimizer"]
        _, _, learns, _, rate, steps, _ = rows[f"{stage}.yaml"]
        assert float(rate) == optimizer["lr"]
        per_step = 8 * trainer.get("accumulate_grad_batches", 1) * config["data"]["row_tokens"]
        assert steps.strip() == f"{trainer['max_steps']:,} of {per_step:,} tokens"
        assert [float(found) for found in re.findall(r"\d+e-\d+", learns)] == list(optimizer.get("lr_of", {}).values())


def test_the_pages_commands_make_the_shards_that_the_configs_name(
    vlm: Vlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, commands = (block for block in code_blocks("bash") if "data write" in block or "fit" in block)
    jpeg = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(jpeg, "JPEG")
    asked = {"from": "human", "value": "What is this?\n<image>"}
    for folder, name in (("llava-558k", "blip_laion_cc_sbu_558k"), ("llava-665k", "llava_v1_5_mix665k")):
        (tmp_path / folder / "00000").mkdir(parents=True)
        records: list[dict[str, Any]] = []
        for number in range(300):
            data = jpeg.getvalue() + number.to_bytes(2, "big")  # what follows a JPEG's end is ignored
            (tmp_path / folder / "00000" / f"{number}.jpg").write_bytes(data)
            identity = str(number % 150 if folder == "llava-665k" else number)
            turns = [asked, {"from": "gpt", "value": f"a red square, {number}"}]
            records.append({"id": identity, "image": f"00000/{number}.jpg", "conversations": turns})
        records.append(
            {"id": "x", "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]}
        )
        (tmp_path / folder / f"{name}.json").write_text(json.dumps(records))
    (tmp_path / "fineweb-edu").mkdir()
    lines = (json.dumps({"text": f"text {number}", "id": f"<urn:uuid:{number}>"}) + "\n" for number in range(3000))
    (tmp_path / "fineweb-edu" / "000.jsonl").write_text("".join(lines))
    for line in commands.splitlines():
        program, *arguments = shlex.split(line)
        code, _, err = vlm(*arguments, "--workers", "1")
        assert (program, code) == ("vlm", 0), err
    made = {path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("dataset.json")}
    named = {
        source["path"] if isinstance(source, dict) else source
        for stage in STAGES
        for split in ("train", "val")
        for source in settings_of(CONFIGS / f"{stage}.yaml")["data"][split]
    }
    assert {name for name in named if name.startswith("shards/")} == made | {"shards/cc12m/train", "shards/cc12m/val"}
    first = parse_sample(*open_shards("shards/llava-665k/train").read(0))
    assert first.messages is not None
    assert first.messages[0].parts == (Part(text="What is this?"), Part(image="0.jpg"))
    assert sum(len(open_shards(f"shards/llava-665k/{split}")) for split in ("train", "val")) == 301
