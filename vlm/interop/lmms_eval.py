"""How lmms-eval learns of our models: the entry point of its group `lmms_eval.models`.

Nothing is imported before it is called: one entry point that fails takes the models of all others with it.
"""

from typing import Any

PLACE = "vlm.interop.lmms_eval_model"


def manifests() -> Any:
    """`--model conceptvlm`: one class for either form of request (simple: a text and pictures; chat: messages)."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="conceptvlm", simple_class_path=f"{PLACE}.ConceptVLM", chat_class_path=f"{PLACE}.ConceptVLMChat"
    )
