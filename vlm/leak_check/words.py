"""What a station stands for, in words: which part of the model leads to it."""

from torch import nn

FIXED = {
    "embed": "the embedding of tokens (embed)",
    "encoder": "the vision encoder",
    "connector": "the connector",
    "row": "interleave, which puts the vectors of pictures among the text",
    "backbone.encoder: given": "what the first token layer is given",
    "backbone.encoder: positions": "the positions of tokens, from the batch through backbone.rotary",
    "backbone.chunker: probabilities": "the chunker's probabilities, which must be 1 at a document's first token",
    "backbone.chunker: boundaries": "the drawing of boundaries (draw_boundaries, find_boundaries)",
    "backbone.chunker: unmerged": "what the chunker is given",
    "backbone.chunker: merged": "the merging of tokens into concepts (Chunker.merge)",
    "backbone.concept: given": "what the first concept layer is given",
    "backbone.concept: positions": "the positions of concepts",
    "backbone.decoder: given": "the smoothing of concepts and their spreading over tokens (smooth, weigh)",
    "backbone.decoder: concepts seen": "the smoothing of concepts and their spreading over tokens (smooth)",
    "backbone.decoder: positions": "the positions of tokens, as the last token layers get them",
    "hidden": "the last norm (backbone.norm)",
    "logits": "the head",
}


def part_of(station: str) -> str:
    """The part of the model whose work shows at a station."""
    path, _, again = station.partition(" (run ")
    if path in FIXED:
        return FIXED[path]
    run = f", run {again.rstrip(')')}" if again else ""
    if path.endswith(".self_attn"):
        return f"the attention of {path.removesuffix('.self_attn')}{run}"
    if path.endswith(".mlp"):
        return f"the experts or the dense layer of {path.removesuffix('.mlp')}{run}"
    return f"{path}{run}"


def batch_norms(encoder: nn.Module | None) -> str:
    """Why an encoder in training mode couples the pictures of a row, if it does."""
    if encoder is None:
        return ""
    kinds = nn.modules.batchnorm._BatchNorm
    names = [name for name, module in encoder.named_modules() if isinstance(module, kinds) and module.training]
    if not names:
        return ""
    return (
        f"; {len(names)} batch norms ({names[0]} is the first) take the mean over all pictures of the row: freeze the encoder "
        "(model.freeze: [encoder]), so that they rest, or use one with layer norms"
    )
