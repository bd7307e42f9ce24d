"""The benchmarks by name. A new one is a function that returns a Task, and one line here."""

from collections.abc import Callable

from eval.task import Task
from eval.tasks import demo

TASKS: dict[str, Callable[[], Task]] = {
    "demo/unseen-style": demo.unseen_style,
    "demo/held-out-category": demo.held_out_category,
    "demo/presence": demo.presence,
    "demo/counting": demo.counting,
    "demo/caption": demo.caption,
    "demo/location": demo.location,
}

GROUPS: dict[str, tuple[str, ...]] = {
    "demo": ("demo/unseen-style", "demo/held-out-category", "demo/presence", "demo/counting", "demo/caption"),
}
