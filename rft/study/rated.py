"""The snippets that people have rated, on which every reward model is measured; what the lowest layers give at them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rft.budget import USAGE
from rft.store.assets import fetch
from rft.store.order import in_any_order
from rft.study.fixed_answers import keep_trunk

if TYPE_CHECKING:
    from pathlib import Path

    from rft.models.backbone import Backbone
    from rft.store import Entry
    from rft.study.pipeline import Pipeline
    from rft.types import Sequences

RATINGS = "ratings"
"""The input of a reward model that holds them."""
RATED_TRUNK = "trunk_rated"
"""The stage, and the input of a reward model: what the lowest layers give at them, once for all reward models."""
PAIRS = 400
"""On which a reward model is measured."""


def rated_pairs(entry: Entry, backbone: Backbone, prompt_tokens: int) -> tuple[Sequences, list[tuple[int, int]], float]:
    """Rated snippets, pairs of them, the one that people rate higher first, and the human ceiling on them.

    Args:
        entry: the ratings.
        backbone: of the model that reads them; what exceeds its positions is cut.
        prompt_tokens: how many of a snippet's tokens stand as its prompt; at least one is left for the response.
    """
    import numpy as np

    from rft.data.offline import to_sequences
    from rft.feedback.agreement import human_ceiling
    from rft.feedback.ratings import human_pairs, read_ratings

    ratings = read_ratings(entry.path)
    pairs = human_pairs(ratings, PAIRS, seed=0)
    ceiling = human_ceiling(ratings, pairs, seed=0).majority
    ordered = np.where(pairs.first_better[:, None], pairs.pairs, pairs.pairs[:, ::-1])
    used, indices = np.unique(ordered, return_inverse=True)
    texts = [str(ratings.texts[i]) for i in used]
    tokenizer: Any = backbone.tokenizer
    positions = getattr(backbone.base.config.get_text_config(), "max_position_embeddings", None)
    most = positions - 1 if positions else None
    ids = [[*tokenizer(t, add_special_tokens=False)["input_ids"][:most], backbone.eos_id] for t in texts]
    head = [x[: max(1, min(prompt_tokens, len(x) - 1))] for x in ids]
    seq = to_sequences(head, [x[len(h) :] for x, h in zip(ids, head, strict=True)], backbone.pad_id)
    return seq, [(int(better), int(worse)) for better, worse in indices.reshape(-1, 2)], ceiling


def rated_inputs(pipeline: Pipeline) -> dict[str, Entry]:
    """What a reward model is measured on, by name: the ratings and, where it reads it, their trunk."""
    ratings, lora = fetch(pipeline.store, "human-ratings"), pipeline.lora
    if not pipeline.reads_trunk:
        return {RATINGS: ratings}

    def make(out: Path) -> Mapping[str, Any]:
        from rft.study.training import make_backbone

        backbone, _ = make_backbone(pipeline.sft.path, pipeline.strategy, lora, roles=())
        snippets, _, _ = rated_pairs(ratings, backbone, 1)
        keep_trunk(snippets, backbone, out)
        return {"snippets": len(snippets), "layers": backbone.trunk.depth, USAGE: backbone.usage.counted()}

    address = {"top_layers": lora.top_layers, "strategy": pipeline.strategy.identity(distributed=False), "pairs": PAIRS}
    inputs = {"sft": pipeline.sft, RATINGS: ratings}
    return {RATINGS: ratings, RATED_TRUNK: pipeline.stage(RATED_TRUNK, address, inputs, make)}


def prepare_reward(pipeline: Pipeline) -> None:
    """Make what a reward model is made from and measured on, before it: first what no other job is making.

    Jobs of several reward models begin side by side and share most of it, as the gold reward and the ratings' trunk.
    """
    in_any_order(pipeline.store, lambda: pipeline.preferences, lambda: rated_inputs(pipeline))
