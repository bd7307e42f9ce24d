"""`vlm plan`, as a user calls it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from vlm.cli import main
from vlm.commands.model_cost import measure_vision
from vlm.commands.plan import read_run
from vlm.connector import ConnectorConfig
from vlm.model import ModelConfig, VisionLanguageModel

pytestmark = pytest.mark.long

Vlm = Callable[..., tuple[int, str, str]]
BIGGER = {"concept_layers": 2, "experts": {"num_experts": 8, "top_k": 2, "hidden": 32}}


def overlay(folder: Path, **settings: Any) -> str:
    path = folder / "overlay.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def planned(vlm: Vlm, *arguments: str) -> dict[str, Any]:
    code, out, err = vlm("plan", "--json", *arguments)
    assert code == 0, err
    return json.loads(out)


@pytest.mark.long
def test_the_demos_model_stands_beside_the_plain_moe_and_the_papers_strategies(vlm: Vlm) -> None:
    code, out, err = vlm("plan", "--config", "demo.yaml")
    assert (code, err) == (0, "")
    for name in ("plain, matched to this config", "1: 1L-top", "2: 2L-top", "2: 1.5L-top", "3: 1.5W-top"):
        assert name in out
    assert "10 experts of 208" in out
    assert "4,250,432" in out


def test_parts_sum_to_the_parameters_of_the_model(vlm: Vlm, config: Path) -> None:
    plan = planned(vlm, "--config", str(config))
    model = VisionLanguageModel(read_run([str(config)])[0])
    assert plan["parameters"]["all"]["total"] == sum(p.numel() for p in model.parameters())
    backbone = sum(count["total"] for name, count in plan["parameters"].items() if name.startswith("backbone: "))
    assert backbone == plan["models"][1]["parameters"] == sum(p.numel() for p in model.backbone.parameters())


def test_an_image_token_costs_its_share_of_the_tower_and_the_connector(vlm: Vlm, config: Path) -> None:
    flops = planned(vlm, "--config", str(config))["flops"]
    patch, connector = 2 * 3 * 16 * 16 * 12, 2 * (12 * 16 + 16 * 16)  # of the config's encoder and connector
    assert flops["image token, of it the encoder"]["forward"] == patch
    assert flops["image token, of it the connector"]["forward"] == connector
    assert flops["image token"]["forward"] == flops["text token"]["forward"] + patch + connector
    assert flops["text token"]["training"] == 3 * flops["text token"]["forward"]


def test_a_timm_tower_is_counted_without_weights_and_per_merged_vector() -> None:
    backbone = read_run(["demo.yaml"])[0].backbone
    encoder = {"name": "timm:vit_tiny_patch16_224", "size_px": 64}
    vision = [
        measure_vision(
            ModelConfig(tokenizer="demo", encoder=encoder, connector=ConnectorConfig(merge=merge), backbone=backbone)
        )
        for merge in (1, 2)
    ]
    assert vision[0] is not None
    assert vision[1] is not None
    assert vision[1].tower_flops == 4 * vision[0].tower_flops
    # 17 tokens (with the class token) of width 192 through 12 layers, and their attention maps; 16 patches.
    expected = 12 * (17 * 2 * 12 * 192**2 + 4 * 17 * 17 * 192) + 16 * 2 * 3 * 16 * 16 * 192
    assert vision[0].tower_flops == pytest.approx(expected / 16, rel=0.001)


def test_frozen_parts_cost_less_in_training(vlm: Vlm, config: Path, tmp_path: Path) -> None:
    part = "image token, of it the encoder"
    for freeze, factor in ((["encoder"], 1), (["connector"], 3)):
        frozen = overlay(tmp_path, model={"freeze": freeze})
        flops = planned(vlm, "--config", str(config), "--config", frozen)["flops"]
        assert flops[part]["training"] == factor * flops[part]["forward"]
    cached = overlay(tmp_path, model={"freeze": ["encoder", "backbone"], "feature_cache": "auto"})
    flops = planned(vlm, "--config", str(config), "--config", cached)["flops"]
    assert flops[part]["training"] == 0
    assert flops["text token"]["training"] == 2 * flops["text token"]["forward"]  # the embedding before it learns


def test_compression_is_planned_for_and_what_was_measured_is_a_row_of_its_own(vlm: Vlm, config: Path) -> None:
    arguments = ("--config", str(config), "--compression", "4", "--measured", "2,4")
    _, planned_row, measured = planned(vlm, *arguments)["models"][:3]
    assert planned_row["name"] == "this config"
    assert planned_row["kv_reduction_concepts"] == pytest.approx(4)
    assert planned_row["map_reduction_concepts"] == pytest.approx(16)
    assert measured["flops_image"] == planned_row["flops_image"]
    assert measured["flops_text"] > planned_row["flops_text"]
    assert measured["kv_bytes_text"] > measured["kv_bytes_image"]


def test_keys_and_values_in_float32_take_twice_the_bytes(vlm: Vlm, config: Path) -> None:
    half, full = (planned(vlm, "--config", str(config), "--dtype", dtype)["models"] for dtype in ("bf16", "fp32"))
    assert [row["kv_bytes_text"] for row in full] == [2 * row["kv_bytes_text"] for row in half]


def test_a_plain_config_is_the_plain_model_of_its_own_table(vlm: Vlm, config: Path, tmp_path: Path) -> None:
    plain = overlay(tmp_path, backbone={"chunk": None, **BIGGER})
    plan = planned(vlm, "--config", str(config), "--config", plain, "--compression", "1.5")
    names = [row["name"] for row in plan["models"]]
    assert names[0] == "plain, this config"
    assert any(name.startswith("1: 1L-top") and name.endswith("-R1.5") for name in names)
    assert plan["models"][0]["flops_deviation_percent"] == 0


def test_a_text_only_model_has_no_image_tokens(vlm: Vlm, config: Path, tmp_path: Path) -> None:
    plan = planned(vlm, "--config", str(config), "--config", overlay(tmp_path, encoder=None))
    assert list(plan["flops"]) == ["text token", "head, for a token with logits"]
    assert not {"encoder", "connector"} & plan["parameters"].keys()


def test_a_strategy_that_is_not_possible_is_told_with_its_reason(vlm: Vlm, config: Path) -> None:
    code, out, _ = vlm("plan", "--config", str(config))
    assert code == 0
    assert "No model of strategy 1: at compression 2 the concept layers would choose top_k=" in out
    assert "No model of strategy 2: loop=1.5 is no whole number of 1 concept layers run again" in out


def test_nothing_is_written_and_no_data_is_needed(vlm: Vlm, config: Path, tmp_path: Path) -> None:
    missing = overlay(tmp_path, data={"train": [str(tmp_path / "nowhere")], "val": []})
    before = sorted(tmp_path.rglob("*"))
    assert planned(vlm, "--config", str(config), "--config", missing)["models"]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config", "nowhere.yaml"), "no config 'nowhere.yaml'"),
        (("--compression", "1"), "compression is tokens per concept and must be above 1, got 1.0"),
        (("--compression", "nan"), "compression is tokens per concept and must be above 1, got nan"),
        (("--compression", "inf"), "compression is tokens per concept and must be finite, got inf"),
        (("--measured", "2,0.5"), "cannot be below 1, got 2, 0.5"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    vlm: Vlm, config: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = vlm("plan", "--config", str(config), *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_settings_that_fit_would_refuse_are_refused(vlm: Vlm, config: Path, tmp_path: Path) -> None:
    code, _, err = vlm("plan", "--config", str(config), "--config", overlay(tmp_path, backbone={"wdith": 3}))
    assert code == 2
    assert "wdith" in err
    plain = overlay(tmp_path, backbone={"chunk": None})
    code, _, err = vlm("plan", "--config", str(config), "--config", plain, "--compression", "0.5")
    assert code == 2
    assert "must be above 1, got 0.5" in err
    code, _, err = vlm("plan", "--config", str(config), "--config", plain, "--measured", "2,2")
    assert code == 2
    assert "chunk is null" in err
    both = overlay(tmp_path, backbone={"chunk": {"compression": 2.0, "tau": 6.0, "sigma": 0.1}})
    code, _, err = vlm("plan", "--config", str(config), "--config", both)
    assert code == 2
    assert "sigma must be positive, and is an alternative to tau; got sigma=0.1, tau=6.0" in err
    outside = overlay(tmp_path, backbone={"concept": {"loop": {"first": 1, "layers": 2}}})
    code, _, err = vlm("plan", "--config", str(config), "--config", outside)
    assert code == 2
    assert "the loop covers concept layers 1 to 2 but concept_layers is 1" in err
    two = overlay(tmp_path, backbone={"chunk": {"compression": 2.0, "compression_image": 4.0}})
    code, _, err = vlm("plan", "--config", str(config), "--config", two)
    assert code == 2
    assert "text tokens have the target 2 and image tokens 4" in err


@pytest.mark.parametrize("measured", ["2", "2,", "2,2,2", "nan,2", "2,inf"])
def test_measured_takes_two_numbers(vlm: Vlm, config: Path, capfd: pytest.CaptureFixture[str], measured: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        vlm("plan", "--config", str(config), "--measured", measured)
    assert stopped.value.code == 2
    assert "give the compression of text and of image tokens, such as 1.9,2.4" in capfd.readouterr().err


def test_memory_of_generation_is_weights_and_what_every_token_keeps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "demo.yaml", "--json", "--dtype", "fp32"]) == 0
    one = json.loads(capsys.readouterr().out)
    sizes = ["--sequences", "8", "--tokens", "1000"]
    assert main(["plan", "--config", "demo.yaml", "--json", "--dtype", "fp32", *sizes]) == 0
    many = json.loads(capsys.readouterr().out)
    assert many["memory"][1]["name"] == "this config"
    for before, after, model in zip(one["memory"], many["memory"], many["models"], strict=True):
        assert after["weights"] == before["weights"]
        assert after["keys_and_values"] == 8000 * model["kv_bytes_text"]
        assert after["in_all"] == after["weights"] + after["keys_and_values"]
    assert one["memory"][1]["weights"] == 4 * one["parameters"]["all"]["total"]
    assert main(["plan", "--config", "demo.yaml", "--sequences", "0"]) == 2
    assert "--sequences must be at least 1" in capsys.readouterr().err
