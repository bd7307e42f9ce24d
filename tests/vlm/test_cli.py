import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def vlm(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from vlm.cli import main; c = main(sys.argv[1:]); print('torch' in sys.modules); sys.exit(c)"
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        cwd=cwd,
        env=variables,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_help_lists_the_commands_and_imports_no_torch(tmp_path: Path) -> None:
    done = vlm("--help", cwd=tmp_path)
    assert done.returncode == 0
    for command in ("demo", "fit", "validate", "eval", "generate", "chat"):
        assert command in done.stdout


def test_without_a_command_the_help_is_shown_and_torch_is_not_imported(tmp_path: Path) -> None:
    done = vlm(cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.endswith("False\n")


def test_an_unknown_command_is_refused(tmp_path: Path) -> None:
    done = vlm("trian", cwd=tmp_path)
    assert done.returncode == 2
    assert "trian" in done.stderr


def test_a_users_own_data_folder_in_the_current_folder_does_not_hide_ours(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "__init__.py").write_text("raise RuntimeError('the wrong data package')")
    (tmp_path / "eval.py").write_text("raise RuntimeError('the wrong eval module')")
    done = vlm("eval", "--model", "nowhere", "--tasks", "demo/presence", cwd=tmp_path)
    assert done.returncode == 2
    assert "no model folder at nowhere" in done.stderr


def test_a_package_that_hides_ours_is_named(tmp_path: Path) -> None:
    hider = tmp_path / "other" / "data" / "__init__.py"
    hider.parent.mkdir(parents=True)
    hider.write_text("")
    done = vlm(cwd=tmp_path, PYTHONPATH=f"{ROOT}")
    assert done.returncode == 0
    code = "import sys; import data; from vlm.cli import main; sys.exit(main([]))"
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(hider.parent.parent), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 2
    assert f"the package `data` of ConceptVLM is hidden by {hider}" in done.stderr
