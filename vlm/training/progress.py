"""Progress on standard error: a bar in a terminal; a line at each quarter of the work otherwise. And the bar of a training run."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment

Show = Callable[[int, int], None]  # (done, total)


@contextmanager
def progress(what: str, total: int) -> Iterator[Show]:
    """Yields a function to be called with (done, total)."""
    if not sys.stderr.isatty():
        yield _quarters(what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    with prints_above(console), shown as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, all_of_them: bar.update(task, completed=done, total=all_of_them)


@contextmanager
def prints_above(console: "Console") -> Iterator[None]:
    """While a bar is shown on this console, what goes to the same terminal goes above it; what goes to a file stays there."""
    streams = (sys.stdout, sys.stderr)
    above = [_Above(console, stream) if _is_same_terminal(stream, console.file) else stream for stream in streams]
    sys.stdout, sys.stderr = cast(list[TextIO], above)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for stream in above:
            if isinstance(stream, _Above):
                stream.end()


def _is_same_terminal(stream: Any, other: Any) -> bool:
    try:
        return bool(stream.isatty()) and os.ttyname(stream.fileno()) == os.ttyname(other.fileno())
    except OSError:  # it has no name here, as in some containers: there is hardly another
        return True


class _Above:
    """A terminal's stream. Whole lines go above the bar as they are: rich's own would wrap them and make spaces of tabs."""

    def __init__(self, console: "Console", stream: Any) -> None:
        self._console, self._stream, self._half = console, stream, ""

    def write(self, text: str) -> int:
        """Keep the last line until it is whole: the bar needs a line of its own."""
        lines, newline, self._half = (self._half + text).rpartition("\n")
        if newline:
            self._console.print(_AsItIs(lines + newline), soft_wrap=True)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        """Nothing waits but half a line."""

    def end(self) -> None:
        """The bar is gone: write what is left."""
        self._stream.write(self._half)
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _AsItIs:
    """Text that rich prints byte by byte."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[Segment]":
        from rich.segment import Segment

        yield Segment(self._text)


def _quarters(what: str) -> Show:
    told = [0]

    def show(done: int, total: int) -> None:
        quarter = 4 * done // max(1, total)
        if quarter > told[0]:
            told[0] = quarter
            print(f"{what}: {done:,} of {total:,}", file=sys.stderr, flush=True)

    return show


class TrainingBar:
    """Steps done and the time left; below them the latest figures, on a line of their own: they need 90 columns.

    Args:
        done: steps at the start.
        total: steps of the run.
    """

    def __init__(self, done: int, total: int) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        # The speed of the last ten minutes: a validation must not look like the end of progress, nor a step of a minute like none.
        self._steps = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), speed_estimate_period=600
        )
        self._task = self._steps.add_task("", total=total, completed=done)
        console = Console(file=sys.stderr)
        self._live = Live(self._steps, console=console, redirect_stdout=False, redirect_stderr=False)
        self._shown = ExitStack()
        self._shown.enter_context(prints_above(console))
        self._shown.enter_context(self._live)

    def show_step(self, done: int) -> None:
        self._steps.update(self._task, completed=done)

    def show_figures(self, line: str) -> None:
        from rich.console import Group

        self._live.update(Group(self._steps, line))

    def stop(self) -> None:
        self._shown.close()
