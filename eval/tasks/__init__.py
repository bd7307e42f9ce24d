"""The benchmarks by name. A new one is a function that returns a Task, and one line here."""

from collections.abc import Callable

from eval.task import Task
from eval.tasks import caption, choice, demo, document, grounding, hallucination, long_context, text, vqa

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
    "vqav2/val": vqa.vqav2,
    "gqa/testdev": vqa.gqa,
    "textvqa/val": vqa.textvqa,
    # documents and charts: eval/tasks/document.py
    "docvqa/val": document.docvqa,
    "infovqa/val": document.infovqa,
    "chartqa/test": document.chartqa,
    "ocrbench": document.ocrbench,
    # yes and no, and hallucination: eval/tasks/hallucination.py
    "pope": hallucination.pope,
    "mme": hallucination.mme,
    "hallusionbench/all": hallucination.hallusionbench,
    "hallusionbench/image": hallucination.hallusionbench_image,
    "chair/val500": hallucination.chair,
    "chair/karpathy": hallucination.chair_karpathy,
    # captions: eval/tasks/caption.py
    "coco-caption/karpathy": caption.coco_caption,
    "nocaps/val": caption.nocaps,
    # boxes: eval/tasks/grounding.py
    **grounding.refcoco_tasks(),
    # how well text is predicted: eval/tasks/text.py
    "text/demo": text.held_out_glosses,
    # long context: eval/tasks/long_context.py, also at any other length
    **long_context.TASKS,
}

MEANS = {"mmmu-pro": ("mmmu-pro/standard", "mmmu-pro/vision")}  # benchmarks whose one score is the mean of these
GROUPS: dict[str, tuple[str, ...]] = {
    "demo": ("demo/unseen-style", "demo/held-out-category", "demo/presence", "demo/counting", "demo/caption"),
    **MEANS,
    **{
        name: tuple(split for split in grounding.SPLITS if split.startswith(f"{name}/"))
        for name in ("refcoco", "refcoco-plus", "refcocog")
    },
    **long_context.GROUPS,
}
