"""Whether two judges are one model, told from their settings and from files at hand: nothing is fetched or loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from rft.feedback.judges.base import JUDGE_ENTRY
from rft.store import Store
from rft.store.entry import file_sha256
from rft.study.parts import part_class, plain


@dataclass(frozen=True, slots=True)
class Answering:
    """The model behind a judge."""

    kind: str
    """What names it: model (at an endpoint), asset, entry or path, study (its own model), class (no model)."""
    name: str
    weights: Path | None = None
    """The folder of its weights, if they are at hand."""

    def same(self, other: Answering) -> bool:
        """Whether both are one model, however they are named, served or asked.

        Of an endpoint the model's name alone counts, as it does for the verdicts that are kept: a server may have
        several addresses. Of two keys of the store one may be written out further. Weights at hand are compared by the
        sha256 of their files, which are read only if they are as many and as long.
        """
        if (self.kind, self.name) == (other.kind, other.name):
            return True
        if self.kind == other.kind == "entry":
            # Each has to begin one key only, so that the longer one decides.
            return self.name.startswith(other.name) or other.name.startswith(self.name)
        if self.weights is None or other.weights is None:
            return False
        return self.weights == other.weights or _same_files(self.weights, other.weights)


def who_answers(cfg: DictConfig, place: str, store: Store | None = None) -> Answering:
    """The model behind the judge at a place of the configuration.

    It is what the judge's settings name: the `model` at an endpoint, an `asset`, a `path` or an `entry` of the store;
    if they name none, the study's model for a judge that needs a model, else the judge's class.

    Args:
        cfg: the configuration of a trial.
        place: `judge` or `eval_judge`.
        store: where the weights of assets are looked for; the user's if None.
    """
    node = cfg[place]
    if isinstance(model := node.get("model"), str):
        return Answering("model", model)
    if named := _weights(node, store or Store.default()):
        return named
    if "model" not in part_class(place, node).needs:
        return Answering("class", str(node["_target_"]))
    own = _weights(cfg.model, store or Store.default())
    return own or Answering("study", repr(sorted(plain(cfg.model).items(), key=lambda one: one[0])))


def opinions(cfg: DictConfig, place: str, store: Store | None = None) -> list[Answering]:
    """Whose opinion the judge at a place gives: its model's and, of a reward model that an earlier study left in the
    store, also that of the judge whose labels it learned from, and so on.

    What the store does not hold any more tells nothing. Arguments as of `who_answers`.
    """
    store = store or Store.default()
    found = [who_answers(cfg, place, store)]
    return found if found[0].kind != "entry" else [*found, *_taught(found[0].name, store, set())]


def _taught(prefix: str, store: Store, seen: set[str]) -> list[Answering]:
    """Who labelled what a reward model learned from, by the beginning of its key."""
    there = [one for one in store.entries() if one.stage == "reward_model" and one.key.startswith(prefix)]
    if not prefix or len(there) != 1 or there[0].key in seen or not there[0].metrics.get("train_pairs", 1):
        return []  # several, none, or a rule, which learned from no label
    seen.add(there[0].key)
    labels = store.peek("preferences", there[0].inputs.get("preferences", ""))
    settings = labels.manifest["config"].get("judge") if labels else None
    if labels is None or settings is None:
        return []
    if isinstance(settings.get("model"), str):
        return [Answering("model", settings["model"])]
    if learned := labels.inputs.get(f"{JUDGE_ENTRY}model"):
        return [Answering("entry", learned), *_taught(learned, store, seen)]
    if key := labels.inputs.get("model"):
        model = store.peek("model", key)
        return [Answering("entry", key, model.path if model else None)]
    return [Answering("class", str(settings["_target_"]))]


def _weights(node: DictConfig, store: Store) -> Answering | None:
    """The asset, the entry of the store or the path that a node names; None if it names none."""
    if asset := node.get("asset"):
        from rft.models.pretrained import made_from_asset

        made = made_from_asset(store, str(asset))
        return Answering("asset", str(asset), None if made is None else made.path)
    if entry := node.get("entry"):
        return Answering("entry", str(entry))
    if not node.get("path"):
        return None
    folder = Path(str(node.path)).expanduser()
    if folder.is_dir():
        return Answering("path", str(folder.resolve()), folder)
    return Answering("path", str(node.path))


def _same_files(one: Path, other: Path) -> bool:
    """Whether the weights in two folders are the same bytes, whatever else is there."""
    ours, theirs = (sorted(folder.glob("*.safetensors")) for folder in (one, other))
    if not ours or _sizes(ours) != _sizes(theirs):
        return False
    first, second = (sorted(file_sha256(file) for file in files) for files in (ours, theirs))
    return first == second


def _sizes(files: list[Path]) -> list[int]:
    return sorted(file.stat().st_size for file in files)
