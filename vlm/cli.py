"""The `vlm` command: a light dispatcher. Each subcommand lives in vlm/commands and is imported only when it is called.

Exit codes: 0 done, 1 done but for some of the requests, 2 the user can mend it (one line on standard error),
130 interrupted, 141 nobody reads the output any more (as in `| head -1`), 143 stopped by SIGTERM.
Set VLM_TRACEBACK=1 to see where an error came from.
"""

import argparse
import importlib
import importlib.util
import os
import select
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

COMMANDS = {
    "demo": "train, evaluate and show a small model on real pictures",
    "plan": "what a config's model costs, beside a plain MoE matched to it",
    "bench": "measure speed, memory and compression on this machine, beside the peers",
    "fit": "train a model from a config",
    "validate": "loss and compression of a checkpoint on held-out data",
    "convert": "import a pretrained language model, or examine a model folder",
    "data": "make shards, examine them, look at a record, train a tokenizer",
    "check": "prove that packed records do not see each other",
    "encoder": "examine a vision encoder, list those that have a name, compare several",
    "eval": "score a model on benchmarks",
    "compare": "put runs of two kinds side by side, seeds of each, with intervals of the difference",
    "generate": "answer prompts, about pictures or not, one or many",
    "chat": "talk with a model in the terminal, about pictures or not",
}
BY_LIGHTNING = ("fit", "validate")
PACKAGES = ("vlm", "encoders", "data", "eval")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            check_packages()
            # Appended, never prepended: a user's module is found, and a user's own `data/` cannot hide ours.
            if os.getcwd() not in sys.path:
                sys.path.append(os.getcwd())
            return dispatch(arguments)
        finally:
            # Here, where it can be told, and not when Python ends.
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, OverflowError, MemoryError, RuntimeError) as error:
        is_unread = isinstance(error, BrokenPipeError) and output_is_unread()
        drop_output()
        if is_unread:
            return 141
        if os.environ.get("VLM_TRACEBACK") or (isinstance(error, RuntimeError) and not is_out_of_memory(error)):
            raise
        print(f"vlm: error: {one_line(error)}", file=sys.stderr)
        return 2


def dispatch(arguments: list[str]) -> int:
    """Hand the arguments to the command they name."""
    parser = argparse.ArgumentParser(prog="vlm", description="Train, evaluate and use vision-language models.")
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, text in COMMANDS.items():
        subparsers.add_parser(name, help=text, add_help=False)
    if arguments and arguments[0] in COMMANDS:
        name, rest = arguments[0], arguments[1:]
        if name in BY_LIGHTNING:
            from vlm.commands.imports import collector_paused

            with collector_paused():
                from vlm.commands.fit import run_lightning
            return run_lightning(name, rest)
        module = importlib.import_module(f"vlm.commands.{name}")
        about = COMMANDS[name]
        if rest and not rest[0].startswith("-") and (words := getattr(module, "WORDS", None)):
            module, about = named_word(name, rest[0], words), words.get(rest[0], "")
            name, rest = f"{name} {rest[0]}", rest[1:]
        command = argparse.ArgumentParser(prog=f"vlm {name}", description=about)
        module.add_arguments(command)
        return int(module.run(command.parse_args(rest)))
    parsed = parser.parse_args(arguments)
    if parsed.version:
        from importlib.metadata import version

        print(version("conceptvlm"))
        return 0
    parser.print_help()
    return 0 if not arguments else 2


def named_word(command: str, word: str, words: Mapping[str, str]) -> ModuleType:
    """The module of a command's second word, such as `vlm eval prepare`.

    Raises:
        ValueError: there is no such word.
    """
    if word not in words:
        raise ValueError(f"unknown word {word!r} after `vlm {command}`; known: {', '.join(words)}")
    return importlib.import_module(f"vlm.commands.{command}_{word}")


def check_packages() -> None:
    """Refuse to run when another package of the same name hides one of ours.

    Raises:
        ValueError: names the file in the way.
    """
    ours = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        found = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
        if found is None or found.parent.parent != ours:
            raise ValueError(
                f"the package `{name}` of ConceptVLM is hidden by {found or 'nothing: it is missing'}; "
                "rename that file, or take its folder out of PYTHONPATH"
            )


def output_is_unread() -> bool:
    """Whether standard output is a pipe whose reader has gone."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # no output, or one that is no file
        return False


def drop_output() -> None:
    """Forget what standard output still holds but cannot write: Python would complain of it when it ends."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_out_of_memory(error: BaseException) -> bool:
    """Also torch's errors, known by name and text: torch may not be imported."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "DefaultCPUAllocator: can't allocate" in str(error)


def one_line(error: BaseException) -> str:
    """The message of an error as one line."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    if is_out_of_memory(error):
        return (
            f"the memory does not suffice ({text[:200] or type(error).__name__}); give less at once, or a smaller model"
        )
    if isinstance(error, OverflowError):
        return f"a number is too large ({text}); give a smaller one"
    return text or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
