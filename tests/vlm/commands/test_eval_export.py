import importlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from data.shards import write_shard

ROOT = Path(__file__).resolve().parents[3]
Vlm = Callable[..., tuple[int, str, str]]


def shard(path: Path, *bad: dict[str, object]) -> Path:
    """Three questions without pictures, and records that are none."""
    good = [{"id": f"q{n}", "content": "Which?", "choices": ["a", "b"], "answer": 0} for n in range(3)]
    write_shard(path, [(f"{n:04}", {"json": json.dumps(one).encode()}) for n, one in enumerate([*good, *bad])])
    return path


def test_the_export_says_what_was_written_and_how_to_run_it(vlm: Vlm, tmp_path: Path) -> None:
    path, out = shard(tmp_path / "some.tar"), tmp_path / "tasks"
    code, said, _ = vlm(
        "eval", "export", "--shards", str(path), "--mode", "choose", "--to", "lmms-eval", "--out", str(out)
    )
    assert code == 0
    assert "conceptvlm_shards_some: 3 questions, 0 pictures" in said
    assert f"--force_simple --include_path {out} --tasks conceptvlm_shards_some" in said
    assert (out / "conceptvlm_shards_some" / "conceptvlm_shards_some.yaml").is_file()
    assert [one.name for one in out.iterdir()] == ["conceptvlm_shards_some"]


def test_bad_records_are_refused_or_told_of(vlm: Vlm, tmp_path: Path) -> None:
    path, out = shard(tmp_path / "some.tar", {"id": "bad", "content": "Which?"}), tmp_path / "tasks"
    chosen = ("--shards", str(path), "--mode", "choose", "--to", "lmms-eval", "--out", str(out))
    code, _, told = vlm("eval", "export", *chosen)
    assert code == 2
    assert "--skip-bad" in told
    code, said, _ = vlm("eval", "export", *chosen, "--skip-bad")
    assert code == 0
    assert "3 questions" in said
    assert "1 records were left out, the first: record '0003'" in said


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("--to", "lmms-eval"), "name a TASK"),
        (("demo", "--shards", "x.tar", "--to", "lmms-eval"), "not both"),
        (("demo/presense", "--to", "vlmevalkit"), "did you mean demo/presence"),
        (("demo/presence", "--to", "lmms-eval", "--prompt", "loud"), "has no prompt 'loud'"),
    ],
)
def test_faults_are_one_line_that_says_what_to_do(
    vlm: Vlm, tmp_path: Path, arguments: tuple[str, ...], fault: str
) -> None:
    code, said, told = vlm("eval", "export", *arguments, "--out", str(tmp_path / "out"))
    assert (code, said) == (2, "")
    assert fault in told
    assert told.count("\n") == 1


def test_the_entry_point_names_a_function_that_imports_nothing_heavy() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["lmms_eval.models"]["conceptvlm"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    code = f"import sys, {module}; print([n for n in ('torch', 'lmms_eval', 'numpy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_hashed_list_has_the_harness_and_no_address() -> None:
    listed = (ROOT / "constraints-lmms-eval.txt").read_text()
    assert "\nlmms-eval==0.7.3 " in listed
    assert "://" not in listed
    lines = [line for line in listed.splitlines() if line and not line.startswith(" ")]
    assert listed.count("--hash=sha256:") >= len(lines)
