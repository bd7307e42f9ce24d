"""The rules of the layout: who may import whom, and how long a file may be."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {"data": set(), "encoders": {"data"}, "eval": {"data"}, "vlm": {"data", "encoders", "eval"}}
# Inside vlm, each layer may import those before it.
LAYERS = ("backbone", "model", "training", "inference", "interop", "commands", "cli")
LAYER_OF = {
    "connector": "model",
    "interleave": "model",
    "resampler": "model",
    "model_folder": "model",
    "weight_files": "model",
    "convert": "interop",
    "bench": "commands",
    "encoder_comparison": "commands",
    "data_report": "commands",
    "eval_report": "commands",
    "leak_check": "commands",
}
MAX_LINES = 300
LONGER = {}  # file -> reason


def source_files() -> list[Path]:
    return sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.append((node.lineno, node.module))
    return found


def test_packages_import_only_what_the_layering_allows() -> None:
    wrong = []
    for path in source_files():
        package = path.relative_to(ROOT).parts[0]
        for line, name in imports(path):
            top = name.split(".")[0]
            if top in MAY_IMPORT and top != package and top not in MAY_IMPORT[package]:
                wrong.append(
                    f"{path.relative_to(ROOT)}:{line} imports {name}; {package} may import {sorted(MAY_IMPORT[package])}"
                )
    assert not wrong, "\n".join(wrong)


def layer(parts: tuple[str, ...]) -> int | None:
    if not parts:
        return None
    name = LAYER_OF.get(parts[0], parts[0])
    return LAYERS.index(name) if name in LAYERS else None


def test_inside_vlm_imports_point_from_the_command_towards_the_backbone() -> None:
    wrong = []
    for path in (ROOT / "vlm").rglob("*.py"):
        own = layer(path.relative_to(ROOT / "vlm").with_suffix("").parts)
        for line, name in imports(path):
            parts = tuple(name.split("."))
            other = layer(parts[1:]) if parts[0] == "vlm" else None
            if own is not None and other is not None and other > own:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}, which stands nearer to the command")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_source_file_stays_under_300_lines(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES or str(path.relative_to(ROOT)) in LONGER, (
        f"{path} has {lines} lines; split it by what it does"
    )
