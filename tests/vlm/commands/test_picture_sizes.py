"""Runs on pictures of many sizes, as a user would start them."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from data.shards import write_manifest, write_shard

Vlm = Callable[..., tuple[int, str, str]]
SIZES = ((32, 32), (100, 40), (40, 100), (64, 70), (20, 50))
FITS = {
    "native": {"fit": "native", "max_pixels": 64 * 64},
    "tiles": {"fit": "tiles", "max_tiles": 3},
}


def record(number: int) -> tuple[str, dict[str, bytes]]:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 1 + 5 * (number % 2)  # every second one lies on its side
    Image.new("RGB", SIZES[number % len(SIZES)], (number % 256, 90, 20)).save(file, "JPEG", exif=exif)
    content = [{"type": "image", "image": "0.jpg"}, {"type": "text", "text": f"number {number}"}]
    return f"{number:04}", {
        "json": json.dumps({"id": str(number), "content": content}).encode(),
        "0.jpg": file.getvalue(),
    }


@pytest.fixture
def sized(request: pytest.FixtureRequest, config: Path, shards: Path, tmp_path: Path) -> Path:
    """An overlay of the tiny config: another fit, markers, altered copies, and the features of a frozen tower."""
    (shards / "a.tar").unlink()
    write_shard(shards / "a.tar", [record(i) for i in range(40)])
    write_manifest(shards)
    settings = {
        "encoder": {**yaml.safe_load(config.read_text())["encoder"], "patch_px": 8, **FITS[request.param]},
        "connector": {"merge": 2, "row_end": True, "crop_end": True},
        "model": {"freeze": ["encoder"], "feature_cache": str(tmp_path / "features")},
        "data": {"augmentations": 1, "row_tokens": 256},
    }
    path = tmp_path / "sized.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def losses(run: Path) -> list[float]:
    (log,) = run.glob("logs/*/metrics.csv")
    with log.open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.long
@pytest.mark.parametrize("sized", ["native", pytest.param("tiles", marks=pytest.mark.slow)], indirect=True)
def test_a_run_on_pictures_of_many_sizes_learns_the_same_with_cached_features(
    vlm: Vlm, config: Path, sized: Path, tmp_path: Path
) -> None:
    code, out, err = vlm("fit", "--config", str(config), "--config", str(sized))
    assert code == 0, err
    most = {"native": 33, "tiles": 28}[yaml.safe_load(sized.read_text())["encoder"]["fit"]]
    assert f"image slots per picture: 7 (2 x 2 and 3 markers from 32 x 32 px), {most} at most" in out
    fresh = tmp_path / "fresh"
    code, _, err = vlm(
        "fit", "--config", str(config), "--config", str(sized), "--model.feature_cache=null",
        "--trainer.default_root_dir", str(fresh),
    )  # fmt: skip
    assert code == 0, err
    assert losses(tmp_path / "run") == pytest.approx(losses(fresh), abs=0.01)  # the cache keeps 11 bits of a feature
    picture = tmp_path / "wide.jpg"
    Image.new("RGB", (90, 30), "red").save(picture)
    asked = ("--prompt", "What is this?", "--image", str(picture), "--max-new-tokens", "3")
    code, _, err = vlm("generate", "--model", str(fresh / "model"), *asked)
    assert code == 0, err


def test_a_setting_of_another_fit_is_one_line(vlm: Vlm, config: Path) -> None:
    code, _, err = vlm("fit", "--config", str(config), "--encoder.max_tiles=3")
    assert code == 2
    assert "max_tiles is a setting of fit: tiles, but fit is letterbox" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("sized", FITS, indirect=True)
def test_a_plan_counts_the_reference_picture(vlm: Vlm, config: Path, sized: Path) -> None:
    code, out, err = vlm("plan", "--config", str(config), "--config", str(sized), "--json")
    assert code == 0, err
    # Four vectors of 2 x 2 patches, two row ends and the crop's end share the cost of 16 patches.
    patches = 2 * 16 * 3 * 8 * 8 * 12
    assert json.loads(out)["flops"]["image token, of it the encoder"]["forward"] == pytest.approx(patches / 7)
