"""``rft judge``: what a judge is worth, and what it answered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rft.cli.store import console

if TYPE_CHECKING:
    from rft.feedback.judges.cache import Kept
    from rft.feedback.judges.request import Reply, Request
    from rft.store import Store

LONGEST = 300  # characters of a question or an answer that are shown
WIDTH = 100  # columns where there is no terminal: logs and pages are read at that

app = typer.Typer(
    name="judge",
    no_args_is_help=True,
    help="Audit judges, and read what they answered.\n\n"
    "Examples:\n\n"
    "  rft judge audit judge=few_shot model=tiny audit.pairs=50\n\n"
    "  rft judge audit judge=few_shot,hf --out results\n\n"
    '  rft judge verdicts --find "ending" --limit 5',
)


@app.command(context_settings={"ignore_unknown_options": True})
def audit(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="As for rft run; judge=a,b audits both.", metavar="[KEY=VALUE]...")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for audits.json and audits.md.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, a list of audits, in place of the table.")
    ] = False,
) -> None:
    """Measure a judge: agreement with people and with the gold reward, biases, consistency, attacks, cost.

    The same audit is part of every trial whose labels or rewards come from a judge. Here it leaves out what the judge
    thinks of its own policy's answers, which needs a start policy and its candidates: audit.self_pairs=100 asks for it.

    Examples:
      rft judge audit

      rft judge audit judge=few_shot model=tiny audit.pairs=50

      rft judge audit audit.self_pairs=100 --out results
    """
    from rft.cli.judge_table import markdown, tables

    audits = _audits(overrides or [])
    for audit in audits:
        _warn_of_unread(audit)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "audits.json").write_text(_as_json(audits), encoding="utf-8")
        (out / "audits.md").write_text(markdown(audits), encoding="utf-8")
    if as_json:
        typer.echo(_as_json(audits))
        return
    screen = console(WIDTH)
    for shown in tables(audits, screen.width):
        screen.print(shown)
    if out is not None:
        typer.echo(f"written: {out / 'audits.json'}, {out / 'audits.md'}")


def _warn_of_unread(audit: Mapping[str, Any]) -> None:
    """Say that figures stand on less than half of what was asked."""
    lost, asked = audit["unread"]["excluded"], audit["unread"]["questions"]
    if 2 * lost > asked:
        typer.echo(
            f"warning: judge {audit['judge']}: {lost} of {asked} verdicts could not be read, so its figures say "
            "little; rft judge verdicts shows what it said; ask in another way (judge.form, judge.answers) or raise "
            "judge.max_tokens where answers are cut",
            err=True,
        )


@app.command()
def verdicts(
    find: Annotated[str, typer.Option(help="Text that the question, the judge or the answer must hold.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many at most, the latest first.")] = 20,
    whole: Annotated[bool, typer.Option("--whole", help="Show long questions and answers uncut.")] = False,
) -> None:
    """Show raw answers that judges gave, with the questions, from the store.

    Those are there of every judge that is a language model, from labelling, training, tests and audits.

    Examples:
      rft judge verdicts

      rft judge verdicts --find "ending" --limit 5
    """
    from rich.text import Text

    from rft.feedback.judges.cache import KeptVerdicts
    from rft.store import Store
    from rft.store.names import VERDICTS_FILE

    store = Store.default()
    path = store.root / VERDICTS_FILE
    rows = list(KeptVerdicts(path, {}).rows(find, limit))
    if not rows:
        holding = f" that hold {find!r}" if find else ""
        typer.echo(f"No answers{holding} are kept in {path}.")
        return
    models = _models(store)
    screen, longest = console(WIDTH), None if whole else LONGEST
    for row in rows:
        screen.print(Text(f"{row.created[:19]}  {_printable(_name(row, models))}", style="bold"), overflow="fold")
        for what, said in (("question", _question(row.request)), ("answer", _answer(row.request, row.reply))):
            screen.print(Text(f"{what}: {_printable(said, longest)}"), overflow="fold")
        screen.print()


def _models(store: Store) -> dict[str, str]:
    """Digest → name of the models that the store holds, of those that have a name."""
    from rft.store.assets import ASSETS, asset_key

    assets = {asset_key(asset): name for name, asset in ASSETS.items()}
    found = {}
    for entry in store.entries():
        config = entry.manifest["config"]
        if entry.stage == "model" and not config:
            found[entry.digest] = assets.get(entry.inputs.get("asset", ""), "")
        elif entry.stage == "model":
            found[entry.digest] = str(config.get("hub") or ("tiny" if "tiny" in config else ""))
    return {digest: name for digest, name in found.items() if name}


def _name(row: Kept, models: Mapping[str, str]) -> str:
    """The judge's model: as an endpoint calls it, or one in this process, by its digest if it has no name."""
    digest = str(row.known.get("model") or "")
    known = row.judge.get("model") or models.get(digest)
    if known or not digest:
        return str(known or json.dumps(dict(row.judge), ensure_ascii=False))
    return f"{row.judge.get('backend', 'model')} {digest[:12]}"


def _audits(overrides: Sequence[str]) -> list[dict[str, Any]]:
    """The audit of each configuration that the overrides make, in their order."""
    from rft.config import compose, expand_sweep

    # The policy and its tracker are no matter; what the user sets comes last and wins.
    own = ["tracker=none", "audit.self_pairs=0", "arm=audit"]
    runs = [[*own, *one] for one in expand_sweep(list(overrides))]
    configs = [compose(run) for run in runs]  # whatever is wrong with any is said before anything is asked
    from rft.runtime import prepare_process

    prepare_process()
    return [_audit(cfg) for cfg in configs]


def _audit(cfg: Any) -> dict[str, Any]:
    import tempfile

    from rft.store import Store
    from rft.store.names import AUDIT_FILE
    from rft.study.pipeline import Pipeline

    with tempfile.TemporaryDirectory() as folder:
        entry = Pipeline(cfg, Store.default(), Path(folder)).audit
    found: dict[str, Any] = json.loads((entry.path / AUDIT_FILE).read_text(encoding="utf-8"))
    return found


def _as_json(audits: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(audits, indent=1, ensure_ascii=False)


def _question(request: Request) -> str:
    """The last turn: those before it are the same for every question."""
    return request.messages[-1]["content"] if request.messages else ""


def _answer(request: Request, reply: Reply) -> str:
    if reply.refused:
        return f"(the question was not taken) {reply.refused}"
    if reply.declined:
        return f"(declined) {reply.declined}"
    if reply.logprobs is None:
        return reply.text if reply.text.strip() else "(empty)"
    return "  ".join(f"{name}: {value:.2f}" for name, value in zip(request.options, reply.logprobs, strict=True))


def _printable(text: str, longest: int | None = LONGEST) -> str:
    """Cut in the middle if it is longer, without control characters: they would steer the terminal."""
    plain = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)
    if longest is None or len(plain) <= longest:
        return plain
    half = longest // 2
    return f"{plain[:half]} … {plain[-half:]}"
