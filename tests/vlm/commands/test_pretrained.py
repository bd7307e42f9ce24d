"""A run that starts from a pretrained language model, through the real command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.vlm.convert.pretrained import make_model, save
from vlm.convert.from_hf import import_model
from vlm.model import VisionLanguageModel

pytestmark = pytest.mark.long
Vlm = Callable[..., tuple[int, str, str]]
CHATML = """\
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


@pytest.fixture
def hf_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONCEPTVLM_CACHE", str(tmp_path / "cache"))
    return save(make_model("qwen3 moe", torch.bfloat16, max_position_embeddings=256), tmp_path / "hf")


def rewrite(config: Path, backbone: str, **changes: Any) -> None:
    settings = yaml.safe_load(config.read_text())
    settings.pop("tokenizer", None)
    settings["trainer"] |= {"max_steps": 2, "val_check_interval": 2}
    config.write_text(yaml.safe_dump(settings | {"backbone": backbone} | changes))


def parameters(folder: Path) -> dict[str, torch.Tensor]:
    return VisionLanguageModel.from_pretrained(folder).state_dict()


def test_the_connector_learns_alone_then_everything_from_the_folder_of_the_first_run(
    vlm: Vlm, config: Path, hf_folder: Path, tmp_path: Path
) -> None:
    frozen = ["embed", "backbone", "head", "encoder"]
    rewrite(config, f"hf:{hf_folder}", model={"freeze": frozen})
    code, _, err = vlm("fit", "--config", str(config))
    assert code == 0, err
    import_model(str(hf_folder), tmp_path / "source")
    source, first = parameters(tmp_path / "source"), parameters(tmp_path / "run" / "model")
    assert {name.split(".")[0] for name in first} == {"embed", "backbone", "head", "encoder", "connector"}
    for name, value in source.items():  # bfloat16 there, float32 here: the same numbers
        assert first[name].dtype == torch.float32
        assert torch.equal(first[name], value.float()), name

    (tmp_path / "run" / "model").rename(tmp_path / "aligned")
    rewrite(config, str(tmp_path / "aligned"), model={})
    root = ("--trainer.default_root_dir", str(tmp_path / "second"))
    code, _, err = vlm("fit", "--config", str(config), *root, "--optimizer.lr", "1e-30")
    assert code == 0, err
    same = parameters(tmp_path / "second" / "model")
    assert all(torch.equal(first[name], same[name]) for name in first)
    code, _, err = vlm("fit", "--config", str(config), "--trainer.default_root_dir", str(tmp_path / "third"))
    assert code == 0, err
    third = parameters(tmp_path / "third" / "model")
    assert all(not torch.equal(first[f"{part}.weight"], third[f"{part}.weight"]) for part in ("head", "embed"))


def test_conversations_are_written_by_the_models_template_where_the_run_says_so(
    vlm: Vlm, config: Path, hf_folder: Path, tmp_path: Path
) -> None:
    (hf_folder / "chat_template.jinja").write_text(CHATML)
    rewrite(config, f"hf:{hf_folder}", chat="template")
    code, _, err = vlm("fit", "--config", str(config))
    assert code == 0, err
    model = tmp_path / "run" / "model"
    assert yaml.safe_load((model / "config.yaml").read_text())["chat"] == "template"
    # A run that begins with this model goes on so, unless it says otherwise.
    for changes, chat in (({}, "template"), ({"chat": "own"}, "own")):
        root = tmp_path / chat
        rewrite(config, str(model), model={}, **changes)
        code, _, err = vlm("fit", "--config", str(config), "--trainer.default_root_dir", str(root))
        assert code == 0, err
        assert yaml.safe_load((root / "model" / "config.yaml").read_text())["chat"] == chat
    code, out, err = vlm(
        "generate", "--model", str(model), "--prompt", "hi <|im_end|>", "--max-new-tokens", "3", "--json"
    )
    assert code == 0, err
    assert len(json.loads(out)["answer"]) < 40


def test_a_template_that_cannot_be_used_is_told_in_one_line(vlm: Vlm, config: Path, hf_folder: Path) -> None:
    rewrite(config, f"hf:{hf_folder}", chat="template")
    code, _, err = vlm("fit", "--config", str(config))
    assert (code, len(err.splitlines())) == (2, 1), err
    assert "its chat template drops, repeats, moves or changes what a message says" in err


def test_a_model_is_imported_once_and_plan_counts_its_head(vlm: Vlm, config: Path, hf_folder: Path) -> None:
    rewrite(config, f"hf:{hf_folder}")
    for _ in range(2):
        code, out, err = vlm("plan", "--config", str(config), "--json")
        assert code == 0, err
        assert json.loads(out)["parameters"]["head"] == {"total": 288 * 16, "activated": 288 * 16}
    imports = [path for path in (hf_folder.parent / "cache" / "imported").iterdir() if path.is_dir()]
    assert len(imports) == 1


def test_what_does_not_fit_is_refused_in_one_line(vlm: Vlm, config: Path, hf_folder: Path, tmp_path: Path) -> None:
    def refused(told: str, *arguments: str) -> None:
        code, _, err = vlm("fit", "--config", str(config), *arguments)
        assert (code, told in err, len(err.splitlines())) == (2, True, 1), err

    rewrite(config, f"hf:{hf_folder}", tokenizer="demo")
    refused("brings its own tokenizer; leave that out of this config")
    rewrite(config, f"hf:{tmp_path / 'nowhere'}")
    refused("no folder")
    rewrite(config, str(tmp_path))
    refused("is no model folder: it lacks model.safetensors")
    rewrite(config, f"hf:{hf_folder}")
    refused("cannot start this model: it lacks backbone.", "--backbone.chunk.compression", "2.0")
    refused("has another tokenizer than this run", "--tokenizer", "demo")
    assert not (tmp_path / "run" / "model").exists()
