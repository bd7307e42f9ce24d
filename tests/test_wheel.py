"""The wheel in an environment of its own: nothing of the source tree is needed, and a user's files do not get in its way."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VLM_TRACEBACK")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, cwd=ROOT)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the wheel, and of this one's packages all but ours."""
    place = tmp_path_factory.mktemp("env") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", place, cwd=ROOT)
    python = place / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).stdout.strip())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # A .pth line adds that folder's packages; the .pth of our editable install, which lies in it, is not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_trains_the_demo_config_beside_a_users_own_data_and_eval(python: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "__init__.py").write_text("raise RuntimeError('the wrong data package')")
    (tmp_path / "eval.py").write_text("raise RuntimeError('the wrong eval module')")
    vlm = [python, "-P", "-c", "import sys; from vlm.cli import main; sys.exit(main(sys.argv[1:]))"]
    where = run(python, "-P", "-c", "import data, eval, vlm, encoders; print(data.__file__)", cwd=tmp_path).stdout
    assert str(python.parent.parent) in where
    short = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--model.feature_cache", "null"]
    out = run(*vlm, "fit", "--config", "demo.yaml", *short, "--trainer.default_root_dir", "run", cwd=tmp_path).stdout
    assert "step     2 of 2" in out
    run(*vlm, "eval", "--model", "run/model", "--tasks", "demo/counting", "--limit", "10", cwd=tmp_path)
    assert (tmp_path / "run" / "limit-10" / "scores.json").is_file()
