"""Config files of runs: where they are found, and how they are read."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vlm.commands.pretrained import Settings, pretrained_backbones, with_pretrained

# Of a run's config; each is a mapping, or the name of a file that holds it.
GROUPS = ("backbone", "checkpoint", "connector", "data", "model", "optimizer", "trainer")
CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"


def found_configs(arguments: list[str]) -> list[str]:
    """Replace each `--config NAME` that is not in the current folder by the one of that name in the package.

    From here on the parser takes a config's pretrained backbone for what it stands for.

    Raises:
        ValueError: no such file in either place; lists what there is. Or the pretrained backbone cannot be had.
    """
    out: list[str] = []
    paths: list[str] = []
    takes_file = False
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if takes_file:
            paths.append(find_config(argument))
            out.append(paths[-1])
            takes_file = False
        elif option in ("--config", "-c") and equals:
            paths.append(find_config(value))
            out.append(f"{option}={paths[-1]}")
        else:
            takes_file = argument in ("--config", "-c")
            out.append(argument)
    read_yaml_strictly(pretrained_backbones([(Path(path), require_settings(Path(path))) for path in paths]))
    return out


def find_config(name: str) -> str:
    """The path of a config: in the current folder, else among those of the package.

    Raises:
        ValueError: there is none of that name, or it holds no settings.
    """
    if Path(name).is_file():
        require_settings(Path(name))
        return name
    inside = CONFIGS / name.removeprefix("configs/")
    if not Path(name).is_absolute() and inside.is_file():
        return str(inside)
    known = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob("*.yaml"))
    raise ValueError(f"no config {name!r} in the current folder, nor in the package, which has {', '.join(known)}")


def require_settings(path: Path) -> dict[str, Any]:
    """The settings of a file; one that is no mapping of settings is refused, as the parser's message would not name it.

    Raises:
        ValueError: it is no text, no YAML, empty, or something else than a mapping.
    """
    example = "a config holds settings, such as `trainer: {max_steps: 1000}`"
    try:
        settings = load_yaml_strictly(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"the config {path} is no text in UTF-8 ({error.reason}); {example}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"the config {path} is no YAML: {error}; {example}") from error
    except ValueError as error:
        raise ValueError(f"the config {path}: {error}") from error
    if settings is None:
        raise ValueError(f"the config {path} is empty; leave it out, or fill it: {example}")
    if not isinstance(settings, dict):
        raise ValueError(
            f"the config {path} must be a mapping, got a value of type {type(settings).__name__}; {example}"
        )
    for group in GROUPS:
        if not isinstance(settings.get(group, {}), dict | str):
            raise ValueError(
                f"the config {path}: {group} must be a mapping of settings, got {settings[group]!r}; {example}"
            )
    return settings


class _StrictLoader(yaml.SafeLoader):
    """YAML 1.2 floats such as 3e-3, and no key twice in one mapping."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                mark = key_node.start_mark
                raise ValueError(
                    f"the key {key!r} stands twice (line {mark.line + 1}, column {mark.column + 1} of {mark.name}); delete one"
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load_yaml_strictly(stream: str) -> Any:
    """Load YAML, refusing a key that stands twice in one mapping, of which YAML would silently keep the last."""
    return yaml.load(stream, Loader=_StrictLoader)


def read_yaml_strictly(backbones: Mapping[str, Settings | None] | None = None) -> None:
    """Let the parser of the commands read its files and values so; what is no YAML is then its error, in one line.

    Args:
        backbones: the pretrained ones, which are put in here: the parser would take their names for those of files.
    """
    from jsonargparse import set_loader

    def load(stream: str) -> Any:
        found = load_yaml_strictly(stream)
        return with_pretrained(found, backbones or {}) if isinstance(found, dict) else found

    set_loader("yaml", load, exceptions=(yaml.YAMLError,))
