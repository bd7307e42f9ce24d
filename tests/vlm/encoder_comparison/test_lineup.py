"""The line-up of a comparison: what an entry means, what is refused, and how unequal encoders can be made equal."""

import re
from pathlib import Path
from typing import Any

import pytest

from vlm.connector import ConnectorConfig
from vlm.encoder_comparison.lineup import contenders, entry_overlay, read_lineup, with_settings
from vlm.model import build_encoder, image_layout

PATCH = "encoders.patch_encoder.PatchEncoder"
BACKBONE = """
backbone:
  {width: 16, num_heads: 2, num_kv_heads: 1, head_width: 8, encoder_layers: 1, concept_layers: 1, decoder_layers: 1,
   experts: {num_experts: 2, top_k: 1, hidden: 8}, chunk: null}
data: {train: [nothing]}
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(BACKBONE)
    return str(path)


def test_an_encoder_with_weights_is_frozen_and_cached_and_any_other_learns() -> None:
    frozen = entry_overlay("a", {"name": "timm:x", "weights": "package"})
    assert frozen["model"] == {"freeze": ["encoder"], "feature_cache": "auto"}
    for learning in (entry_overlay("a", "timm:x"), entry_overlay("a", {"name": "timm:x", "weights": None})):
        assert learning["model"] == {"freeze": None, "feature_cache": None}
    own = entry_overlay("a", {"encoder": {"name": "timm:x", "weights": "hub"}, "model": {"freeze": ["encoder.model"]}})
    assert own["model"] == {"freeze": ["encoder.model"], "feature_cache": None}


def test_a_file_and_a_list_of_names_give_overlays_by_label(tmp_path: Path) -> None:
    assert list(read_lineup(f"timm:x, {PATCH}")) == ["timm:x", PATCH]
    path = tmp_path / "encoders.yaml"
    path.write_text("one: timm:x\ntwo: {encoder: {name: timm:x, size_px: 64}, connector: {merge: 2}}\n")
    found = read_lineup(str(path))
    assert found["one"]["encoder"] == "timm:x"
    assert (found["two"]["encoder"]["size_px"], found["two"]["connector"]) == (64, {"merge": 2})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one: timm:x\n", "has 1 encoder"),
        ("one: timm:x\ntwo: null\n", "'two' is None; it must be a name"),
        ("one: timm:x\ntwo: {size_px: 3}\n", "'two' is {'size_px': 3}; it must be a name"),
        (
            "one: timm:x\ntwo: {encoder: timm:x, data: {}}\n",
            "'two' sets data; an entry may set encoder, connector, model",
        ),
        ("one, a: timm:x\none-a: timm:x\n", "'one, a' and 'one-a' would share the folder 'one-a'"),
        ("one: timm:x\n'?': timm:x\n", "the label '?' has no letter or figure"),
    ],
)
def test_entries_that_are_none_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "encoders.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_lineup(str(path))


def test_settings_are_nested_and_typed_as_in_a_config() -> None:
    overlay: dict[str, Any] = {"model": {"freeze": None}}
    made = with_settings(overlay, ["trainer.max_steps=20", "optimizer.lr=3e-3", "model.hold_compression=false"])
    assert made == {
        "model": {"freeze": None, "hold_compression": False},
        "trainer": {"max_steps": 20},
        "optimizer": {"lr": 3e-3},
    }
    assert overlay == {"model": {"freeze": None}}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("trainer.max_steps", "--set takes KEY=VALUE, got 'trainer.max_steps'"),
        (".max_steps=3", "--set takes KEY=VALUE"),
        ("data.seed=3", "--set data.seed: the comparison gives each run its own"),
        ("trainer.default_root_dir=here", "--set trainer.default_root_dir: the comparison gives each run its own"),
        ("encoder.size_px=3", "--set encoder.size_px: the comparison gives each run its own"),
        ("connector.merge.x=3", "--set connector.merge.x: merge holds 2 here"),
        ("trainer.max_steps=[", "the value is no YAML"),
    ],
)
def test_settings_that_would_do_nothing_or_are_none_are_refused(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        with_settings({"connector": {"merge": 2}}, [setting])


@pytest.mark.long
def test_unequal_numbers_of_vectors_are_refused_with_ways_that_make_them_equal(config: str) -> None:
    lineup = {
        "nine": entry_overlay("nine", {"name": PATCH, "size_px": 96, "patch_px": 32}),
        "many": entry_overlay("many", {"name": PATCH, "size_px": 96, "patch_px": 16}),
        "never": entry_overlay("never", {"name": PATCH, "size_px": 40, "patch_px": 40}),
    }
    with pytest.raises(ValueError, match="as many vectors for every encoder") as caught:
        contenders(lineup, config, [])
    text = str(caught.value)
    assert "nine: 9;" in text
    told = re.search(r"many: 36 \(9 with (.*?)\); never: 1 \(9 with (.*?)\)", text)
    assert told is not None
    assert "merge 2" in told[1].split(" or ")
    for number, patch_px, size_px in ((1, 16, 96), (2, 40, 40)):
        for way in told[number].split(" or "):
            figures = [int(figure) for figure in re.findall(r"\d+", way)]
            size, merge = figures if len(figures) == 2 else (size_px, figures[0])
            layout = image_layout(
                build_encoder({"name": PATCH, "size_px": size, "patch_px": patch_px}), ConnectorConfig(merge=merge)
            )
            assert layout is not None
            assert layout.slots == 9, way


@pytest.mark.long
def test_contenders_have_the_config_that_fit_would_read(config: str) -> None:
    lineup = {
        "a": entry_overlay("a", {"name": PATCH, "size_px": 96, "patch_px": 32}),
        "b": entry_overlay("b", {"encoder": {"name": PATCH, "size_px": 96, "patch_px": 16}, "connector": {"merge": 2}}),
    }
    first, second = contenders(lineup, config, ["backbone.width=32", "model.freeze=[connector]"])
    assert (first.vectors, second.vectors) == (9, 9)
    assert (first.model.connector.merge, second.model.connector.merge) == (1, 2)
    assert second.model.backbone.width == 32
    assert second.learning == {"train_only": None, "freeze": ["connector"]}
    with pytest.raises(ValueError, match=r"^b: .*trainer"):
        contenders({"b": lineup["b"]}, config, ["trainer.no_such=1"])
