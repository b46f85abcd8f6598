"""A wrong configuration is refused in one line that names the key and the mend, before torch is imported."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from rft.cli.run import hydra_run
from rft.config import compose, expand_sweep
from rft.config.build import target_class
from rft.config.declared import declared
from rft.config.files import read_option
from rft.config.options import options
from rft.config.overrides import with_nobody
from rft.errors import UserError
from rft.models.pretrained import Pretrained
from rft.store import Store
from rft.store.assets import ASSETS, asset_key
from rft.study.answering import who_answers
from rft.study.final_judge import refuse_own_judge
from rft.study.parts import refuse_misfits, require_separate_labels


@pytest.mark.parametrize("algorithm", ["sft", "ppo", "dpo", "rlaif"])
def test_every_algorithm_composes(algorithm: str) -> None:
    cfg = compose([f"algorithm={algorithm}", "model=tiny", "seed=3"])
    assert cfg.algorithm.name == algorithm
    assert cfg.seed == 3


def test_rlaif_means_ai_feedback() -> None:
    assert compose(["algorithm=rlaif"]).feedback._target_.startswith("rft.feedback.ai.")
    assert compose(["algorithm=ppo"]).feedback._target_.startswith("rft.feedback.simulated.")


@pytest.mark.parametrize(
    ("override", "where", "mend"),
    [
        ("algorithm=pppo", "algorithm=pppo", "did you mean 'ppo'"),
        ("algorithm.clip_rang=0.1", "algorithm.clip_rang", "did you mean 'clip_range'"),
        ("+algorithm.clip_rang=0.1", "algorithm.clip_rang", "did you mean 'clip_range'"),
        ("++algorithm.clip_rang=0.1", "algorithm.clip_rang", "did you mean 'clip_range'"),
        ("algorithm.lr=abc", "algorithm.lr", "abc is no number"),
        ("strategy.precision=fp8", "strategy.precision", "bf16"),
        ("modle=tiny", "modle", "did you mean 'model'"),
        ("model.lora.rnk=4", "model.lora.rnk", "did you mean 'rank'"),
        ("model=hf", "model.path", "has no value"),
        ("eval_judge=few_sho", "eval_judge=few_sho", "did you mean 'few_shot'"),
        ("eval_judg=few_shot", "eval_judg", "did you mean 'eval_judge'"),
        ("eval_judge.batch_size=3", "eval_judge.batch_size", "as in eval_judge="),
        ("+eval_judge.batch_size=3", "eval_judge", "as in eval_judge="),
        ("model._target_=os.system", "_target_=os.system", "RFT_ALLOWED_PACKAGES"),
    ],
)
def test_a_wrong_override_is_one_line_with_the_mend(override: str, where: str, mend: str) -> None:
    with pytest.raises(UserError) as caught:
        compose([override])
    message = str(caught.value)
    assert where in message
    assert mend in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ("judge=hf judge.options=3", "judge.options: takes a list, as in judge.options=[…,…]"),
        ("judge=hf judge.principles=foo", "judge.principles: takes a list"),
        ("judge=hf judge.principles={a:b}", "judge.principles: takes a list"),
        ("judge=few_shot judge.shots=[a]", "judge.shots[0]: takes fields with values, as in {name: value}"),
        ("eval_judge=hf eval_judge.shots=[a]", "eval_judge.shots[0]: takes fields with values"),
        ("judge=few_shot judge.shots=[{text:3}]", "judge.shots[0]: 3 is no text"),
        ("judge=hf judge.options=[[1]]", "judge.options is [[1]]: holds what is no text"),
        ("judge=hf judge.setting=[a]", "judge.setting: ['a'] is no text"),
        ("judge=hf judge.batch_size=1.5", "judge.batch_size: 1.5 is no whole number"),
        ("judge=hf judge.temperature=hot", "judge.temperature: hot is no number"),
        ("judge=hf judge.chain_of_thought=maybe", "judge.chain_of_thought: maybe is neither true nor false"),
        ("judge=hf judge.max_tokens=null", "judge.max_tokens: may not be null"),
        ("judge=hf judge.form=pairwis", "judge.form=pairwis: no such choice; valid are pointwise, pairwise, listwise"),
        ("feedback=mixed feedback.ai=3", "feedback.ai: has fields of its own; set one of them"),
        ("candidates=3", "candidates: has fields of its own; set one of them, as in candidates.FIELD=…"),
        ("judge=few_shot judge.shots=[]", "judge.shots is empty: give at least one example"),
        ("judge=few_shot judge.batch_size=0", "judge.batch_size=0: must be at least 1"),
        ("judge=few_shot judge.max_text_tokens=0", "judge.max_text_tokens=0: must be at least 1"),
        (
            "judge=constitution judge.principles=[]",
            "judge.principles=[]: without any judge=constitution is judge=pairwise",
        ),
        ("eval_judge=constitution eval_judge.principles=[]", "eval_judge.principles=[]: without any"),
        ("algorithm=constitutional judge.principles=[]", "judge.principles=[]: without any judge=constitution"),
    ],
)
def test_what_cannot_be_a_setting_is_told_in_words_of_ours(overrides: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(overrides.split())
    message = str(caught.value)
    assert message.startswith(told)
    assert "\n" not in message
    for jargon in ("Config", "Dict", "ListConfig", "AnyNode", "subclass", "type hint", "Integer"):
        assert jargon not in message


def test_principles_are_no_need_of_a_judge_that_is_no_constitution() -> None:
    assert compose(["judge=pairwise", "judge.principles=[]"]).judge.principles == []
    assert compose(["judge=constitution", "judge.principles=[x]"]).judge.principles == ["x"]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ("algorithm=rlaif_direct judge=pairwise", r"^judge=pairwise: compares .* \(algorithm=rlaif_direct\); set"),
        (
            "algorithm=ppo feedback=ai reward=judge judge=listwise",
            r"^judge=listwise: compares .* \(reward=judge\); set",
        ),
        ("algorithm=online_feedback feedback=mixed", "^feedback=mixed: .* algorithm=online_feedback come in parts"),
    ],
)
def test_options_that_do_not_go_together_are_refused_by_name(overrides: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        refuse_misfits(compose(overrides.split()))
    assert "\n" not in str(caught.value)
    for fine in ("algorithm=rlaif_direct", "algorithm=rlaif judge=pairwise", "algorithm=dpo feedback=mixed"):
        refuse_misfits(compose(fine.split()))


def test_nothing_heavy_is_imported_to_refuse_them() -> None:
    code = (
        "import sys; from rft.cli.run import _precheck\n"
        "try: _precheck(['algorithm=rlaif_direct', 'judge=pairwise'], sweep=False)\n"
        "except Exception as error: print(error)\n"
        "print(*{'torch', 'transformers', 'lightning', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    told, heavy = done.stdout.splitlines()
    assert told.startswith("judge=pairwise: compares")
    assert heavy == ""


def test_what_classes_declare_is_read_as_it_is() -> None:
    """Their own, their base's, and nothing where an option of the group declares nothing."""
    for option in options():
        if option.plugin is None and (target := read_option(option.path).get("_target_")):
            for name in {"algorithm": ["needs"], "reward": ["needs"], "feedback": ["by_comparison"]}.get(
                option.group, []
            ):
                assert declared(target, name) == getattr(target_class({"_target_": target}), name), target


def test_another_feedback_than_the_name_says_is_refused() -> None:
    with pytest.raises(UserError, match="means feedback=ai"):
        compose(["algorithm=rlaif", "feedback=simulated"])


@pytest.mark.parametrize(
    ("override", "mend"),
    [
        ("eval_judge.bach_size=3", "did you mean 'batch_size'"),
        ("++eval_judge.bach_size=3", "did you mean 'batch_size'"),
        ("eval_judge.batch_size=many", "many is no whole number"),
        ("eval_judge._target_=os.system", "RFT_ALLOWED_PACKAGES"),
    ],
)
def test_a_setting_of_the_judge_that_tests_is_checked_as_one_of_training(override: str, mend: str) -> None:
    with pytest.raises(UserError, match=mend) as caught:
        compose(["eval_judge=few_shot", override])
    assert "\n" not in str(caught.value)


def test_the_judge_that_tests_is_an_option_of_the_group_judge() -> None:
    assert compose([]).eval_judge is None
    assert compose(["eval_judge=none"]).eval_judge is None
    cfg = compose(["eval_judge=few_shot", "eval_judge.batch_size=4"])
    assert cfg.eval_judge == compose(["judge=few_shot", "judge.batch_size=4"]).judge
    assert cfg.judge.batch_size == 32


@pytest.mark.parametrize(
    ("overrides", "taught"),
    [
        (["algorithm=rlaif"], True),
        (["algorithm=dpo", "feedback=ai"], True),
        (["algorithm=best_of_n", "feedback=ai"], True),
        (["algorithm=rlaif", "eval_judge.batch_size=4", "eval_judge.max_text_tokens=9"], True),
        (["algorithm=ppo"], False),
        (["algorithm=sft", "feedback=ai"], False),
        (["algorithm=ppo", "feedback=ai", "reward=lexicon"], False),
    ],
)
def test_ones_own_teacher_is_refused_as_the_judge_that_tests(overrides: list[str], taught: bool) -> None:
    cfg = compose(["eval_judge=few_shot", *overrides])
    if not taught:
        refuse_own_judge(cfg)
        return
    with pytest.raises(UserError, match=r"evaluation\.same_judge=few_shot") as caught:
        refuse_own_judge(cfg, "arm x: ")
    assert str(caught.value).startswith("arm x: eval_judge: the policy learns from the same judge, few_shot")
    refuse_own_judge(compose(["eval_judge=few_shot", *overrides, "evaluation.same_judge=few_shot"]))
    with pytest.raises(UserError, match="no such judge; did you mean 'few_shot'"):
        refuse_own_judge(compose(["eval_judge=few_shot", *overrides, "evaluation.same_judge=few"]))


NAMED = {"_target_": "rft.feedback.judges.few_shot.FewShotJudge"}


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ({}, {}, True),
        ({"asset": "smollm2-135m-instruct"}, {}, True),
        ({"asset": "other"}, {}, False),
        ({"path": "hub/model", "seed": 1}, {"path": "hub/model"}, True),
        ({"path": "hub/model"}, {"path": "hub/other"}, False),
        ({"entry": "0a1b"}, {"entry": "0a1b"}, True),
        ({"entry": "0a1b"}, {"entry": "0a1b2c"}, True),
        ({"entry": "0a1b"}, {"entry": "2c3d"}, False),
        (
            {"model": "m", "base_url": "http://localhost:8000/v1"},
            {"model": "m", "base_url": "http://127.0.0.1:8000/v1/"},
            True,
        ),
        ({"model": "m", "base_url": "http://a/v1"}, {"model": "m", "base_url": "http://b/v1"}, True),
        ({"model": "m", "base_url": "http://a/v1"}, {"model": "n", "base_url": "http://a/v1"}, False),
    ],
)
def test_two_judges_of_one_model_are_one_judge(ours: dict[str, Any], theirs: dict[str, Any], same: bool) -> None:
    cfg = OmegaConf.create(
        {"model": {"asset": "smollm2-135m-instruct"}, "judge": NAMED | ours, "eval_judge": NAMED | theirs}
    )
    found = who_answers(cfg, "judge"), who_answers(cfg, "eval_judge")
    assert (found[0].same(found[1]), found[1].same(found[0])) == (same, same)


def test_a_judge_is_known_by_its_weights_wherever_they_lie(tmp_path: Path) -> None:
    """An asset's, as the store has them, a copy of them, and others as long as these."""
    store = Store(tmp_path / "store")

    def save(out: Path) -> None:
        (out / "model.safetensors").write_bytes(b"weights")

    inputs = {"asset": asset_key(ASSETS["smollm2-135m-instruct"])}
    store.get_or_compute("model", version=Pretrained.version, config={}, inputs=inputs, build=save)
    for name, data in (("copy", b"weights"), ("again", b"weights"), ("other", b"WEIGHTS")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(data)
        (folder / "config.json").write_text(f'{{"name": "{name}"}}', encoding="utf-8")

    def same(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
        model = {"asset": "smollm2-135m-instruct"}
        cfg = OmegaConf.create({"model": model, "judge": NAMED | ours, "eval_judge": NAMED | theirs})
        return who_answers(cfg, "judge", store).same(who_answers(cfg, "eval_judge", store))

    copy, again, other = ({"path": str(tmp_path / name)} for name in ("copy", "again", "other"))
    assert same({}, copy)
    assert same(copy, {"asset": "smollm2-135m-instruct"})
    assert same(copy, again)
    assert not same(copy, other)
    assert not same({}, other)


def test_who_labelled_for_a_reward_model_is_its_teacher(tmp_path: Path) -> None:
    """Reward models of few_shot's labels, of those of the first, of people's and of an endpoint's."""
    store = Store(tmp_path / "store")

    def made(stage: str, config: dict[str, Any], **inputs: str) -> str:
        def save(out: Path) -> dict[str, Any]:
            (out / "model.safetensors").write_bytes(b"weights")
            return {"train_pairs": 9}

        return store.get_or_compute(stage, version=Pretrained.version, config=config, inputs=inputs, build=save).key

    model = made("model", {}, asset=asset_key(ASSETS["smollm2-135m-instruct"]))
    by_judge = made("preferences", {"judge": NAMED}, model=model)
    first = made("reward_model", {"n": 1}, preferences=by_judge)
    by_first = made("preferences", {"judge": {"_target_": "rm"}}, judge_model=first)
    second = made("reward_model", {"n": 2}, preferences=by_first)
    by_people = made("reward_model", {"n": 3}, preferences=made("preferences", {"feedback": {}}))
    by_name = made("reward_model", {"n": 4}, preferences=made("preferences", {"judge": {"model": "m"}}))
    tested = "eval_judge=reward_model"
    for key in (first, first[:9], second):
        by_key = [tested, f"eval_judge.entry={key}"]
        with pytest.raises(
            UserError, match=r"same opinion, one of the two being trained on labels of the other, few_shot"
        ):
            refuse_own_judge(compose(["algorithm=rlaif", *by_key]), store=store)
        refuse_own_judge(compose(["algorithm=rlaif", *by_key, "evaluation.same_judge=few_shot"]), store=store)
        refuse_own_judge(compose(["algorithm=ppo", *by_key]), store=store)
    for key in (by_people, by_name, "0" * 64):
        refuse_own_judge(compose(["algorithm=rlaif", tested, f"eval_judge.entry={key}"]), store=store)

    taught = ["algorithm=rlaif", "judge=reward_model", "eval_judge=few_shot"]
    with pytest.raises(UserError, match=r"of the other, reward_model, and .* evaluation\.same_judge=reward_model"):
        refuse_own_judge(compose([*taught, f"judge.entry={second}"]), store=store)
    refuse_own_judge(compose([*taught, f"judge.entry={by_people}"]), store=store)

    endpoint = ["algorithm=rlaif", "judge=openai", "judge.base_url=http://a/v1", tested, f"eval_judge.entry={by_name}"]
    with pytest.raises(UserError, match="of the other, openai"):
        refuse_own_judge(compose([*endpoint, "judge.model=m"]), store=store)
    refuse_own_judge(compose([*endpoint, "judge.model=n"]), store=store)


@pytest.mark.parametrize("override", ["eval_judge=null", "eval_judge=none"])
def test_null_is_nobody_where_nobody_may_be(override: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert compose([override]).eval_judge is None
    hydra_run([override, "--cfg", "job"])
    assert "eval_judge" in capsys.readouterr().out


def test_null_is_nobody_in_a_sweep_and_nothing_else_is_touched() -> None:
    others = ["judge.path=null", "eval_judge.entry=null", "eval_judge=my-null"]
    assert with_nobody(["eval_judge=null,few_shot", *others]) == ["eval_judge=none,few_shot", *others]
    assert with_nobody(["+eval_judge=null"]) == ["+eval_judge=none"]
    assert [compose(run).eval_judge is None for run in expand_sweep(["eval_judge=null,few_shot"])] == [True, False]


@pytest.mark.parametrize("override", ["judge=null", "feedback=3", "budget=1.5", "task=true"])
def test_what_is_no_name_of_an_option_is_refused_in_a_line(override: str) -> None:
    with pytest.raises(UserError, match=f"^{override}: no such option; ") as caught:
        compose([override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("judge=", "judge=: no such option; valid are constitution, few_shot, hf"),
        ("judge=FewShot", "judge=FewShot: no such option; did you mean 'few_shot'?"),
        ("judge=FEW_SHOT", "judge=FEW_SHOT: no such option; did you mean 'few_shot'?"),
        ("judge=openai/gpt-4o", "judge=openai/gpt-4o: no such option; did you mean 'openai'?"),
        ("judge=http://localhost:8000/v1", "judge=http://localhost:8000/v1: no such option; valid are "),
        ("judge=[fewshot]", r"judge=[fewshot]: no such option; did you mean 'few_shot'?"),
        ("judge=few_shot,", "judge=few_shot,: no such option; did you mean 'few_shot'?"),
        ("judge=${model}", "judge=${model}: no such option; "),
        ("judge=ü", "judge=ü: no such option; valid are "),
        ("eval_judge=", "eval_judge=: no such option; valid are constitution, few_shot, hf, listwise, none"),
        ("++judge=hf", "++judge=hf: an option of judge is chosen by judge=hf; "),
        ("judge@other=hf", "judge@other=hf: an option of judge is chosen by judge=hf; "),
        ("~judge", "~judge: judge cannot be left out; choose an option, as in judge="),
    ],
)
def test_whatever_stands_for_an_option_is_refused_in_our_words(override: str, told: str) -> None:
    for refuse in (lambda: compose([override]), lambda: [compose(run) for run in expand_sweep([override])]):
        with pytest.raises(UserError, match=f"^{re.escape(told)}") as caught:
            refuse()
        assert "\n" not in str(caught.value)


def test_labels_that_depend_on_what_else_is_asked_are_refused_for_fresh_pairs() -> None:
    with pytest.raises(
        UserError, match=r"arm x: feedback=mixed: a label depends on .*algorithm=online_feedback.* choose feedback=ai"
    ) as caught:
        require_separate_labels(compose(["algorithm=online_feedback", "feedback=mixed"]), "arm x: ")
    assert "\n" not in str(caught.value)
    for fine in (["algorithm=online_feedback", "feedback=ai"], ["algorithm=dpo", "feedback=mixed"]):
        require_separate_labels(compose(fine))


def test_another_address_of_ones_own_teacher_is_refused() -> None:
    teacher = ["algorithm=rlaif_dpo", "judge=openai", "judge.model=m", "judge.base_url=http://a/v1"]
    test = ["eval_judge=openai", "eval_judge.form=pointwise", "eval_judge.base_url=http://b/v1"]
    with pytest.raises(UserError, match=r"the policy learns from the same judge, openai"):
        refuse_own_judge(compose([*teacher, *test, "eval_judge.model=m"]))
    refuse_own_judge(compose([*teacher, *test, "eval_judge.model=n"]))


def test_a_sweep_is_the_product_of_its_choices() -> None:
    runs = expand_sweep(["algorithm=ppo,dpo", "seed=0,1", "model=tiny"])
    assert runs[0] == ["algorithm=ppo", "seed=0", "model=tiny"]
    assert len(runs) == 4


def test_a_refusal_exits_with_two_imports_no_torch_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, rft.cli\n"
        "sys.argv = ['rft', 'run', 'algorithm.clip_rang=1']\n"
        "try:\n    rft.cli.main()\n"
        "except SystemExit as end:\n    print(end.code, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
