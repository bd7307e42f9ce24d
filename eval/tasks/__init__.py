"""The benchmarks by name. A new one is a function that returns a Task, and one line here."""

from collections.abc import Callable

from eval.task import Task
from eval.tasks import choice, demo, long_context

TASKS: dict[str, Callable[[], Task]] = {
    "demo/unseen-style": demo.unseen_style,
    "demo/held-out-category": demo.held_out_category,
    "demo/presence": demo.presence,
    "demo/counting": demo.counting,
    "demo/caption": demo.caption,
    "demo/location": demo.location,
    # choices: eval/tasks/choice.py
    "ai2d/masked": choice.ai2d,
    "ai2d/no-mask": choice.ai2d_no_mask,
    "scienceqa/test": choice.scienceqa,
    "scienceqa/image": choice.scienceqa_image,
    "mmmu/val": choice.mmmu,
    "mmmu-pro/standard": choice.mmmu_pro_standard,
    "mmmu-pro/vision": choice.mmmu_pro_vision,
    "mmbench/dev-en": choice.mmbench,
    "mmbench/dev-en-v11": choice.mmbench_v11,
    "mmstar": choice.mmstar,
    "seedbench/image": choice.seedbench_image,
    "realworldqa": choice.realworldqa,
    "blink": choice.blink,
    "mathvista/testmini": choice.mathvista,
    # short answers: eval/tasks/vqa.py
    # documents and charts: eval/tasks/document.py
    # hallucination: eval/tasks/hallucination.py
    # captions: eval/tasks/caption.py
    # boxes: eval/tasks/grounding.py
    # long context: eval/tasks/long_context.py, also at any other length
    **long_context.TASKS,
}

GROUPS: dict[str, tuple[str, ...]] = {
    "demo": ("demo/unseen-style", "demo/held-out-category", "demo/presence", "demo/counting", "demo/caption"),
    "mmmu-pro": ("mmmu-pro/standard", "mmmu-pro/vision"),
    **long_context.GROUPS,
}
