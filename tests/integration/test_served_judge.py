"""A judge behind the servers of other projects, which are killed and started again while they label.

``transformers serve`` runs everywhere and gives no log-probabilities: its verdicts are written. llama-cpp-python's
server is built from source, so it runs where `LLAMA_PYTHON` names a Python that has it, as CONTRIBUTING.md says.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rft.feedback.judges.cache import KeptVerdicts
from rft.store import Store
from rft.store.assets import fetch
from tests.integration.harness import Warm, wait_until
from tests.integration.labelling import QUESTIONS, Labelling
from tests.served import Counting, Served, question, transformers_command
from tests.tokenizers import bytewise

pytestmark = [
    pytest.mark.assets,
    pytest.mark.slow,
    pytest.mark.xdist_group("endpoint"),
    pytest.mark.timeout(1800),
]

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
IN_FLIGHT = 4
BEFORE_KILL = 20  # answers


def model_that_decides(folder: Path) -> str:
    """A random Llama over bytes that says A or B, by all that it reads, and ends; returns its folder.

    The last token's direction 0 is far off for a letter of a verdict alone, and says that it ends; what else is in the
    hidden state then is next to nothing. After anything else one other direction decides between A and B.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = bytewise()
    tokenizer.chat_template = CHAT
    a, b, end = (tokenizer.convert_tokens_to_ids(one) for one in ("A", "B", "<eos>"))
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.4, **size)).eval()
    read, said = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    with torch.no_grad():
        read[:, 0] = 0.0
        read[[a, b], 0] = 1000.0
        said.zero_()
        said[end, 0] = 1.0
        said[a, 6], said[b, 6] = 20.0, -20.0
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = end
    model.config.eos_token_id = end
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@dataclass
class Stand:
    """A server, the proxy before it, and what a run that nothing happened to asked and left."""

    server: Served
    proxy: Counting
    settings: tuple[str, ...]
    close: float  # how far off a number of the labels may be
    asked: list[str] = field(default_factory=list)
    labels: list[dict[str, Any]] = field(default_factory=list)

    def undisturbed(self, run: Labelling) -> None:
        """Label for the first time."""
        outcome = run(self.proxy, *self.settings)
        log = self.server.log.read_text(encoding="utf-8", errors="replace")
        assert outcome.code == 0, outcome.stderr + log[-2000:]
        came, answered = self.proxy.begin_again()
        assert sorted(came) == sorted(answered) == sorted(set(came))
        assert len(came) >= QUESTIONS
        self.asked, self.labels = came, run.labels()
        assert len(self.labels) == QUESTIONS / 2

    def start(self, run: Labelling) -> int:
        """Label, and come back once some questions are answered; returns the process's id."""
        pid = run.start(self.proxy, *self.settings)
        wait_until(lambda: len(self.proxy.answered) >= BEFORE_KILL, 600)
        return pid

    def check(self, run: Labelling) -> None:
        """The labels are those of the undisturbed run."""
        found = run.labels()
        assert len(found) == len(self.labels)
        for row, wanted in zip(found, self.labels, strict=True):
            assert row == (pytest.approx(wanted, abs=self.close) if self.close else wanted)


@contextmanager
def stand(server: Served, run: Labelling, *settings: str, close: float = 0.0) -> Iterator[Stand]:
    """Start the server, label undisturbed, and end the server with the block."""
    always = ("tracker=none", f"judge.concurrency={IN_FLIGHT}", "judge.timeout=600", "judge.patience=600")
    with server:
        proxy = Counting(server.port)
        try:
            found = Stand(server, proxy, (*always, *settings), close)
            found.undisturbed(run)
            yield found
        finally:
            proxy.close()


@pytest.fixture
def labelling(warm: Warm, candidates: Path, tmp_path: Path) -> Labelling:
    return Labelling(warm, candidates, tmp_path)


@pytest.fixture(scope="module")
def written(warm: Warm, candidates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """``transformers serve``."""
    folder = tmp_path_factory.mktemp("transformers")
    model = model_that_decides(folder / "decides")
    server = Served(transformers_command(model), folder / "log")
    run = Labelling(warm, candidates, folder)
    settings = (f"judge.model={model}", "judge.answers=generated", "judge.max_tokens=8")
    with stand(server, run, *settings) as found:
        said = [row["preference"] for row in found.labels]
        assert {0.0, 1.0} <= set(said), "what the judge says depends on what it reads"
        yield found


@pytest.fixture(scope="module")
def rated(warm: Warm, candidates: Path, store_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """llama-cpp-python's server with SmolLM2, if a Python has it."""
    python = os.environ.get("LLAMA_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import llama_cpp.server.app"], capture_output=True, check=False).returncode:
        pytest.skip("llama-cpp-python[server] is not installed; LLAMA_PYTHON may name a Python that has it")
    folder = tmp_path_factory.mktemp("llama")
    weights = next(fetch(Store(store_root), "smollm2-135m-instruct").path.rglob("*.gguf"))
    command = [python, "-m", "llama_cpp.server", "--model", str(weights), "--model_alias", "smollm2-135m-q4"]
    command += ["--n_threads", "1", "--n_threads_batch", "1", "--n_ctx", "2048"]
    run = Labelling(warm, candidates, folder)
    # It goes on from the tokens that a question shares with the one before it: the last digits depend on the order.
    with stand(Served(command, folder / "log"), run, "judge.model=smollm2-135m-q4", close=0.02) as found:
        assert len({row["preference"] for row in found.labels}) > 20, "what the judge says depends on what it reads"
        yield found


@pytest.fixture(scope="module", params=["written", "rated"], ids=["transformers", "llama-cpp"])
def served(request: pytest.FixtureRequest) -> Stand:
    found: Stand = request.getfixturevalue(request.param)
    return found


def test_a_run_waits_for_a_server_that_is_killed_and_goes_on(served: Stand, labelling: Labelling) -> None:
    served.start(labelling)
    served.server.kill()
    _, before = served.proxy.begin_again()
    served.server.start()
    outcome = labelling.wait()
    assert outcome.code == 0, outcome.stderr
    came, after = served.proxy.begin_again()
    assert BEFORE_KILL <= len(before) < len(served.asked) - IN_FLIGHT, "it was killed in the middle"
    assert not set(came) & set(before), "what was answered before is not asked again"
    assert sorted(before + after) == sorted(served.asked), "each question is answered once"
    served.check(labelling)


def test_after_both_are_killed_only_what_is_missing_is_asked(served: Stand, labelling: Labelling) -> None:
    os.kill(served.start(labelling), signal.SIGKILL)
    served.server.kill()
    assert labelling.wait().code == -signal.SIGKILL
    _, before = served.proxy.begin_again()
    kept = {question(one.request.messages) for one in KeptVerdicts(labelling.store / "verdicts.sqlite", {}).rows()}
    assert kept <= set(before)
    assert BEFORE_KILL - 3 * IN_FLIGHT <= len(kept) < len(served.asked) - IN_FLIGHT, "it was killed in the middle"
    served.server.start()
    outcome = labelling(served.proxy, *served.settings)
    assert outcome.code == 0, outcome.stderr
    came, after = served.proxy.begin_again()
    assert sorted(came) == sorted(after) == sorted(set(served.asked) - kept), "only what is missing is asked, once"
    served.check(labelling)
