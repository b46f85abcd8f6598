"""Keys and passwords are found by name, by form and by the environment, and nothing else is taken for one."""

from __future__ import annotations

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from rft.cli.run import _precheck
from rft.config import compose
from rft.errors import UserError
from rft.secrets import scrubbed, secret_settings, without_secrets

KEY = "canary-5f1e9c"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_API_KEY", KEY)
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    monkeypatch.setenv("KEY_FILE_SECRET", "/home/me/key.json")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ({"judge": {"api_key": "x1"}}, ["judge.api_key"]),
        ({"judge": {"headers": {"Authorization": "Bearer abc"}}}, ["judge.headers.Authorization"]),
        ({"a": {"password": "p"}, "b": {"hf_token": "t"}}, ["a.password", "b.hf_token"]),
        ({"a": [{"note": f"with {KEY} in it"}]}, ["a[0].note"]),
        ({"arm": "sk-abcdefghijklmnopqrst"}, ["arm"]),
        ({"url": "http://me:pass@host/v1"}, ["url"]),
        ({"api_key": "", "token": None, "key_env": "MY_SERVICE_API_KEY", "pad_token": "<pad>"}, []),
        ({"max_tokens": 12, "url": "http://host:80/v1", "text": "abc", "path": "/home/me/key.json"}, []),
    ],
)
def test_settings_that_hold_one(data: dict[str, object], found: list[str]) -> None:
    assert list(secret_settings(data)) == found
    assert list(secret_settings(without_secrets(data))) == []
    if not found:
        assert without_secrets(data) == data


def test_a_text_is_scrubbed() -> None:
    assert scrubbed(f"a {KEY} b http://me:pw@host Bearer abcdefghijk") == "a … b http://…@host Bearer …"


def test_a_configuration_with_one_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"^study: holds a key or a password") as refused:
        compose(["algorithm=sft", f"study={KEY}"])
    assert KEY not in str(refused.value)


@pytest.mark.parametrize("judge", ["few_shot", "openai", "hf"])
def test_the_shipped_configuration_holds_none(judge: str) -> None:
    cfg = compose(["algorithm=ppo", f"judge={judge}", *(["judge.model=m"] if judge == "openai" else [])])
    data = OmegaConf.to_container(cfg, resolve=True)
    assert list(secret_settings(data)) == []
    assert without_secrets(data) == data


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("judge.setting='mine is plainly-named'", r"^judge\.setting: holds the key that is in MY_JUDGE"),
        ("judge.key_env=my-judge", r"^judge\.key_env: is no name of an environment variable"),
    ],
)
def test_a_judge_knows_its_key_by_the_variable_that_it_names(
    override: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the variable is called."""
    monkeypatch.setenv("MY_JUDGE", "plainly-named")
    with pytest.raises(UserError, match=words) as refused:
        compose(["algorithm=rlaif", "judge=openai", "judge.model=m", "judge.key_env=MY_JUDGE", override])
    assert "plainly-named" not in str(refused.value)


@pytest.mark.parametrize(
    "override",
    [f"hydra.job.env_set.OTHER={KEY}", "hydra.job.env_set={A_API_KEY:plain}", "+hydra.job.env_set.HF_TOKEN=p"],
)
def test_hydras_own_settings_hold_none_either(override: str) -> None:
    """Hydra writes them to a file in the trial's folder."""
    with pytest.raises(UserError, match=r"^hydra\.job\.env_set.*: holds a key or a password") as refused:
        _precheck(["algorithm=sft", override], sweep=False, shows=True)
    assert KEY not in str(refused.value)
    _precheck(
        ["algorithm=sft", "hydra.job.env_set.OMP_NUM_THREADS=1", "hydra.job.chdir=false"], sweep=False, shows=True
    )


def test_a_traceback_holds_none() -> None:
    """Of a trial of a study it goes to a file in the trial's folder."""
    code = (
        "import os, sys; from rft.cli import main; from rft.cli.app import app\n"
        "@app.command()\n"
        "def fails() -> None: raise RuntimeError(f'no answer for {os.environ[\"MY_SERVICE_API_KEY\"]}')\n"
        "sys.argv = ['rft', 'fails']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("RuntimeError: no answer for …\n")
    assert KEY not in done.stderr
