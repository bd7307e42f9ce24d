"""`vlm check leak`, as a user calls it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vlm.backbone import concept_moe
from vlm.commands.check_leak import model_of_folder

Vlm = Callable[..., tuple[int, str, str]]
PLACES = {"alone": "packed as alone", "text": "other text beside it", "tokens": "gradient to others' tokens"}


def test_a_configs_model_is_checked_on_the_configs_own_data(vlm: Vlm, config: Path) -> None:
    code, out, err = vlm("check", "leak", "--config", str(config), "--rows", "1")
    assert code == 0, err
    assert out.startswith("tiny.yaml, random weights, float64: 1 rows in each mode")
    for probe in PLACES.values():
        (line,) = [line for line in out.splitlines() if line.startswith(f"{probe}  ")]
        assert line.endswith("none")
    assert "passed: no record of a row sees another, nor what comes after" in out
    assert "Not leaks: the balance, z and ratio losses" in out


def test_a_trained_folder_is_checked_on_other_data(vlm: Vlm, model_folder: Path, shards: Path) -> None:
    code, out, err = vlm(
        "check", "leak", "--model", str(model_folder), "--data", str(shards / "a.tar"), "--rows", "1", "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["model"].startswith(str(model_folder))
    assert found["leaks"] == 0
    assert found["records"] == {"text alone": 3, "one picture": 3, "several pictures": 3}
    modes = {finding["mode"] for finding in found["findings"]}
    assert modes == {"evaluation", "training"}
    gradients = [one["largest"] for one in found["findings"] if one["probe"] == PLACES["tokens"]]
    assert gradients == [0, 0]


def test_what_a_run_froze_rests_also_in_a_check_of_its_folder(vlm: Vlm, model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "run" / "model")
    folder = tmp_path / "run" / "model"
    assert "all parts learning" in model_of_folder(folder)[2]
    (tmp_path / "run" / "config.yaml").write_text(
        "model: {freeze: [encoder], train_only: null}\ndata: {train: [{path: 'demo:train/text'}, {path: gone.tar}]}\n"
    )
    model, places, name = model_of_folder(folder)
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    assert all(parameter.requires_grad for parameter in model.backbone.parameters())
    assert places == ["demo:train/text"]
    assert name == f"{folder}, parts frozen as in config.yaml beside it"


def test_a_leak_is_told_in_words_and_ends_with_an_error(
    vlm: Vlm, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smooth = concept_moe.smooth
    monkeypatch.setattr(concept_moe, "smooth", lambda concepts, prob: smooth(concepts, prob.clamp(max=0.9)))
    code, out, err = vlm("check", "leak", "--config", str(config), "--rows", "1")
    assert code == 2
    assert "LEAK a record changes with the words of another, in evaluation mode" in out
    assert "the smoothing of concepts and their spreading over" in " ".join(out.split())
    assert "failed: " in out
    assert err.splitlines()[-1].startswith("vlm: error: tiny.yaml, random weights leaks: ")
    assert PLACES["text"] in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "0"], "--rows must be at least 1, got 0"),
        (["--config", "nowhere.yaml"], "no config 'nowhere.yaml' in the current folder"),
        (["--model", "nowhere"], "nowhere"),
        (["--data", "nowhere.tar"], "nowhere.tar"),
        (["--device", "toaster"], "device 'toaster' cannot be used"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_one_line(
    arguments: list[str], words: str, vlm: Vlm, config: Path
) -> None:
    own = [] if {"--config", "--model"} & set(arguments) else ["--config", str(config)]
    code, out, err = vlm("check", "leak", *own, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1
