"""Config files of runs: where they are found, and how they are read."""

import re
from pathlib import Path
from typing import Any

import yaml

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"


def found_configs(arguments: list[str]) -> list[str]:
    """Replace each `--config NAME` that is not in the current folder by the one of that name in the package.

    Raises:
        ValueError: no such file in either place; lists what there is.
    """
    out: list[str] = []
    takes_file = False
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if takes_file:
            out.append(find_config(argument))
            takes_file = False
        elif option in ("--config", "-c") and equals:
            out.append(f"{option}={find_config(value)}")
        else:
            takes_file = argument in ("--config", "-c")
            out.append(argument)
    return out


def find_config(name: str) -> str:
    """The path of a config: in the current folder, else among those of the package."""
    if Path(name).is_file():
        return name
    inside = CONFIGS / name.removeprefix("configs/")
    if not Path(name).is_absolute() and inside.is_file():
        return str(inside)
    known = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob("*.yaml"))
    raise ValueError(f"no config {name!r} in the current folder, nor in the package, which has {', '.join(known)}")


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
