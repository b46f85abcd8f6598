"""The backend behind an OpenAI-compatible endpoint, against servers that run real models."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rft.errors import UserError
from rft.feedback.judges.cost_cap import CostCap
from rft.feedback.judges.openai import Config, OpenAIBackend
from rft.feedback.judges.request import Reply, Request
from tests.integration.harness import environment, wait_until
from tests.openai_server import MODEL, Running, Servers
from tests.served import Served, transformers_command

pytestmark = pytest.mark.xdist_group("endpoint")

KEY = "sk-test-4f9a1c77e2d84b06"
CHAT = "Which of the two is better?"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    found = Servers(tmp_path_factory.mktemp("servers"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def plain(servers: Servers) -> Running:
    """A server that wants no key and does as it should."""
    return servers.start()


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-user-0123456789")


def requests(count: int, *, options: tuple[str, ...] = ("A", "B"), length: int = 0) -> list[Request]:
    return [
        Request(({"role": "user", "content": f"Which is better, {i} or {i * i}?"},), options, length)
        for i in range(count)
    ]


def backend(server: Running | str, folder: Path, **settings: Any) -> OpenAIBackend:
    url = server if isinstance(server, str) else server.url
    known = {"model": MODEL, "key_env": None, "patience": 20.0, "timeout": 20.0}
    return OpenAIBackend(Config(base_url=url, **(known | settings)), folder / "spending.sqlite")


def asked(one: OpenAIBackend, questions: list[Request]) -> tuple[dict[int, Reply], str]:
    """What came, and what ended it, empty if nothing did."""
    came: dict[int, Reply] = {}
    fault = ""
    try:
        for place, reply in one.answer(questions):
            assert place not in came
            came[place] = reply
    except UserError as error:
        fault = str(error)
    assert "\n" not in fault
    assert KEY not in fault
    return came, fault


def test_log_probabilities_are_those_of_the_model_whatever_is_in_flight_at_once(plain: Running, tmp_path: Path) -> None:
    questions = requests(12)
    many, fault = asked(backend(plain, tmp_path, concurrency=6), questions)
    one, _ = asked(backend(plain, tmp_path, concurrency=1), questions)
    assert fault == ""
    assert {i: r.logprobs for i, r in many.items()} == {i: r.logprobs for i, r in one.items()}
    assert sorted(many) == list(range(12))
    assert len({r.logprobs for r in many.values()}) > 6, "what it says depends on what it reads"
    length = len("<user>\n<assistant>") + len(questions[5].messages[0]["content"])
    assert (many[5].read, many[5].written, many[5].text, many[5].money) == (length, 1, "", None)


def test_text_is_what_the_model_writes(plain: Running, tmp_path: Path) -> None:
    questions = requests(3, options=(), length=5)
    found, fault = asked(backend(plain, tmp_path), questions)
    assert fault == ""
    assert [len(found[i].text) for i in range(3)] == [5, 5, 5]
    assert found[0].logprobs is None
    assert found[0].written == 5


def test_money_is_what_was_read_and_written_at_the_prices(plain: Running, tmp_path: Path) -> None:
    one = backend(plain, tmp_path, price_read=2.0, price_written=10.0)
    found, _ = asked(one, requests(4))
    spent = sum((r.read * 2.0 + r.written * 10.0) / 1e6 for r in found.values())
    assert sum(r.money or 0.0 for r in found.values()) == pytest.approx(spent)
    assert CostCap(one.ledger, MODEL, None).spent == pytest.approx(spent)


def test_no_question_needs_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY")
    one = backend("http://127.0.0.1:9/v1", tmp_path, key_env="JUDGE_KEY")
    assert list(one.answer([])) == []
    with pytest.raises(
        UserError, match=r"JUDGE_KEY holds no key; set it, as in `export JUDGE_KEY=…`.*judge.key_env=null"
    ):
        list(one.answer(requests(1)))


def test_the_key_is_sent_and_an_odd_one_is_not_shown(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = servers.start(key=KEY)
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}\n")  # as from a file
    found, fault = asked(backend(server, tmp_path, key_env="JUDGE_KEY"), requests(2))
    assert (len(found), fault) == (2, "")
    monkeypatch.setenv("JUDGE_KEY", f"{KEY} {KEY}")
    assert "signs that no key has" in asked(backend(server, tmp_path, key_env="JUDGE_KEY"), requests(2))[1]


def test_a_wrong_key_ends_it_at_once_and_is_not_repeated(
    servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = servers.start(key="sk-another-4711")
    found, fault = asked(backend(server, tmp_path, key_env="JUDGE_KEY", concurrency=2), requests(20))
    assert found == {}
    assert "does not accept the key in JUDGE_KEY" in fault
    assert "0 answers are kept, and the same command goes on" in fault
    assert len(server.lines("came")) <= 4, "nothing new is asked after it"
    assert KEY[:7] not in fault
    assert KEY[-4:] not in fault
    assert "wants a key (401)" in asked(backend(server, tmp_path), requests(1))[1]


def test_an_unknown_model_ends_it_at_once(plain: Running, tmp_path: Path) -> None:
    _, fault = asked(backend(plain, tmp_path, model="huge"), requests(3))
    assert "has no model 'huge'" in fault
    _, fault = asked(backend(plain.url + "/elsewhere", tmp_path), requests(3))
    assert "no chat completions (404); correct judge.model or judge.base_url" in fault


def test_nobody_there_is_tried_for_as_long_as_there_is_patience(tmp_path: Path) -> None:
    started = time.monotonic()
    _, fault = asked(backend("http://127.0.0.1:9/v1", tmp_path, patience=1.5), requests(2))
    took = time.monotonic() - started
    told = re.search(
        r"http://127.0.0.1:9/v1 cannot be reached; a chat completion was asked for (once|\d times), in ([\d.]+) s, and "
        r"another try would pass judge.patience=1.5 s; start the server",
        fault,
    )
    assert told
    assert float(told[2]) <= took + 0.01
    assert 0.5 < took < 60


def test_no_answer_in_time(servers: Servers, tmp_path: Path) -> None:
    hanging = servers.start(fault="hang")
    _, fault = asked(backend(hanging, tmp_path, timeout=0.3, patience=4.0, concurrency=1), requests(1))
    told = re.search(r"within 0.3 s \(judge.timeout\); a chat completion was asked for (\d+) times, in ", fault)
    assert told
    assert int(told[1]) == len(hanging.lines("came")) > 1


def test_one_try_that_outlasts_the_patience_is_said_to_be_one(servers: Servers, tmp_path: Path) -> None:
    hanging = servers.start(fault="hang")
    _, fault = asked(backend(hanging, tmp_path, timeout=0.7, patience=0.1, concurrency=1), requests(2))
    told = re.search(
        r"\(judge.timeout\); a chat completion was asked for once, in ([\d.]+) s, and another try would", fault
    )
    assert told
    assert float(told[1]) >= 0.7
    assert "judge.patience=0.1 s" in fault
    assert len(hanging.lines("came")) == 1


@pytest.mark.parametrize(("fault", "words"), [("html", "it is no JSON"), ("no_choices", "no choices with a message")])
def test_what_is_no_completion_ends_it_after_a_few_tries(
    servers: Servers, tmp_path: Path, fault: str, words: str
) -> None:
    server = servers.start(fault=fault)
    _, told = asked(backend(server, tmp_path, concurrency=1), requests(2))
    assert words in told
    assert "; a chat completion was asked for 3 times, in " in told
    assert told.split(";")[2].startswith(" correct judge.base_url")
    assert len(server.lines("came")) == 3


def test_a_server_without_log_probabilities_is_told(servers: Servers, tmp_path: Path) -> None:
    server = servers.start(fault="no_logprobs")
    assert "gives no log-probabilities; set judge.answers=generated" in asked(backend(server, tmp_path), requests(2))[1]


def test_what_was_filtered_says_nothing_and_what_was_cut_is_marked(servers: Servers, tmp_path: Path) -> None:
    filtered, _ = asked(backend(servers.start(fault="filtered"), tmp_path), requests(1, options=(), length=4))
    assert (filtered[0].text, filtered[0].written) == ("", 4), "it is paid for all the same"
    assert len(filtered[0].declined) == 4, "what was said is kept, but no verdict is read from it"
    cut, _ = asked(backend(servers.start(fault="cut"), tmp_path), requests(1, options=(), length=4))
    assert (len(cut[0].text), cut[0].cut) == (4, True)


def test_none_of_the_options_listed_is_no_log_probability(plain: Running, tmp_path: Path) -> None:
    found, _ = asked(backend(plain, tmp_path, top_logprobs=1), requests(8, options=("Yes", "No")))
    assert {r.logprobs for r in found.values()} == {None}


def test_one_question_that_does_not_fit_spoils_no_other(servers: Servers, tmp_path: Path) -> None:
    server = servers.start(unfit="or 0?")
    found, fault = asked(backend(server, tmp_path, concurrency=1), requests(5))
    assert fault == ""
    assert (found[0].logprobs, found[0].text) == (None, "")
    assert all(found[i].logprobs for i in range(1, 5))


def test_if_none_fits_it_ends_and_what_the_server_says_is_without_the_key(servers: Servers, tmp_path: Path) -> None:
    server = servers.start(fault="unfit", key=KEY)
    found, fault = asked(backend(server, tmp_path, key_env="JUDGE_KEY", concurrency=1), requests(9))
    assert found == {}
    assert "maximum context length is 8 tokens" in fault
    assert KEY[-4:] not in fault
    assert len(server.lines("came")) in (3, 4)


def test_a_rate_limit_is_waited_for_as_the_server_says(servers: Servers, tmp_path: Path) -> None:
    server = servers.start(limit_every=5)
    started = time.monotonic()
    found, fault = asked(backend(server, tmp_path, concurrency=4), requests(6))
    assert (len(found), fault) == (6, "")
    assert time.monotonic() - started > 0.95, "Retry-After: 1"
    # The server writes it down after it has answered.
    wait_until(lambda: sorted(server.lines("answered")) == sorted(set(server.lines("came"))), 10)


def test_a_rate_limit_longer_than_patience_ends_it(servers: Servers, tmp_path: Path) -> None:
    server = servers.start(limit_every=3)
    started = time.monotonic()
    found, fault = asked(backend(server, tmp_path, concurrency=1, patience=0.9), requests(6))
    assert "limits the rate (429); a chat completion was asked for once, in " in fault
    assert "2 answers are kept" in fault
    assert len(found) == 2
    assert time.monotonic() - started < 0.9


def test_own_rate_limits_spread_the_questions_and_are_no_stricter(plain: Running, tmp_path: Path) -> None:
    """Beside what the same questions take without limits: seven gaps of 0.1 s; of ten questions of 40 tokens 0.4 s."""
    started = time.monotonic()
    asked(backend(plain, tmp_path), requests(10))
    free = time.monotonic() - started
    started = time.monotonic()
    asked(backend(plain, tmp_path, requests_per_minute=600.0), requests(8))
    assert 0.65 < time.monotonic() - started < 1.2 + 2 * free
    for concurrency in (1, 8):
        started = time.monotonic()
        limited = backend(plain, tmp_path, tokens_per_minute=60_000.0, concurrency=concurrency)
        found, _ = asked(limited, requests(10))
        used = [r.read + r.written for _, r in sorted(found.items())]
        assert 350 < sum(used) < 500
        assert 0.9 * sum(used[:-1]) / 1000 < time.monotonic() - started < 1.0 + 2 * free


def test_a_fault_waits_for_what_is_in_flight(servers: Servers, tmp_path: Path) -> None:
    """The fourth question is refused at once, while the first three are still being answered."""
    slow = servers.start(delay=0.5, gone_after=3)
    found, fault = asked(backend(slow, tmp_path, concurrency=4), requests(9))
    assert "has no model" in fault
    assert "3 answers are kept" in fault
    assert len(found) == 3


def test_a_cap_is_never_passed_and_what_came_before_is_kept(servers: Servers, tmp_path: Path) -> None:
    server = servers.start(delay=0.02)
    settings = {"price_read": 1000.0, "price_written": 1000.0, "concurrency": 8}
    questions = requests(40)
    cost = 42 / 1000  # of a question, about
    capped, fault = asked(backend(server, tmp_path, max_money=12 * cost, **settings), questions)
    spent = sum(r.money or 0.0 for r in capped.values())
    assert "judge.max_money=0.504: " in fault
    assert f"{len(capped)} answers are kept" in fault
    assert 0 < len(capped) < 13
    assert spent <= 12 * cost
    wait_until(lambda: len(server.lines("answered")) == len(capped), 10)
    again, _ = asked(backend(server, tmp_path, max_money=12 * cost, **settings), questions)
    assert again == {}, "a second start does not spend it again"
    rest = [q for i, q in enumerate(questions) if i not in capped]
    raised, fault = asked(backend(server, tmp_path, max_money=60 * cost, **settings), rest)
    assert (len(raised), fault) == (len(rest), "")


def test_a_server_that_counts_nothing_is_paid_the_most_it_can_have_done(servers: Servers, tmp_path: Path) -> None:
    server = servers.start(fault="no_usage")
    found, _ = asked(backend(server, tmp_path), requests(1))
    assert found[0].read >= len("<user>Which is better, 0 or 0?\n<assistant>")


def test_ctrl_c_ends_it_at_once(servers: Servers, tmp_path: Path) -> None:
    code = (
        "import signal, sys\nfrom pathlib import Path\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job starts without
        "from rft.feedback.judges.openai import Config, OpenAIBackend\n"
        "from rft.feedback.judges.request import Request\n"
        "one = OpenAIBackend(Config(model='m', base_url=sys.argv[1], key_env=None), Path(sys.argv[2]))\n"
        "questions = [Request(({'role': 'user', 'content': str(i)},), ('A', 'B')) for i in range(20)]\n"
        "print('asking', flush=True)\nlist(one.answer(questions))\n"
    )
    hanging = servers.start(fault="hang")
    command = [sys.executable, "-c", code.replace("'m'", repr(MODEL)), hanging.url, str(tmp_path / "v.sqlite")]
    process = subprocess.Popen(command, env=environment(tmp_path), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: len(hanging.lines("came")) == 8)
    os.kill(process.pid, 2)
    started = time.monotonic()
    _, stderr = process.communicate(timeout=20)
    assert time.monotonic() - started < 15  # the server would let it hang for a minute
    assert stderr.rstrip().endswith("KeyboardInterrupt")


def chat_model(folder: Path) -> Path:
    """A random Llama over bytes with a chat format, which ends what it writes to `CHAT` after a few tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe)
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=256, initializer_range=0.4, **size)).eval()
    ids = torch.tensor([tokenizer.encode(f"<user>{CHAT}<assistant>")])
    written: list[int] = []
    with torch.inference_mode():
        for _ in range(40):
            written.append(
                int(model(torch.cat([ids, torch.tensor([written], dtype=torch.long)], 1)).logits[0, -1].argmax())
            )
    # The first token that is new after four: greedy decoding ends there.
    end = next(token for i, token in enumerate(written) if i >= 4 and token not in written[:i])
    model.generation_config.eos_token_id = model.config.eos_token_id = end
    model.generation_config.pad_token_id = end
    tokenizer.eos_token = letters[end]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    said = tokenizer.decode(written[: written.index(end)])
    (folder / "expected.json").write_text(json.dumps({"text": said, "read": ids.shape[1]}), encoding="utf-8")
    return folder


def test_the_server_of_transformers_answers_as_its_model_does(tmp_path: Path) -> None:
    """A server that is not ours: greedy text, an end by EOS, counted tokens, and no log-probabilities."""
    model = chat_model(tmp_path / "tiny")
    expected = json.loads((model / "expected.json").read_text(encoding="utf-8"))
    question = Request(({"role": "user", "content": CHAT},), (), 40)
    with Served(transformers_command(model), tmp_path / "log") as server:
        one = backend(server.url, tmp_path, model=str(model), concurrency=2)
        found, fault = asked(one, [question, question])
        assert fault == ""
        assert (found[0].text, found[0].read, found[0].cut) == (expected["text"], expected["read"], False)
        assert found[1].text == found[0].text
        cut, _ = asked(one, [replace(question, max_tokens=2)])
        assert (cut[0].text, cut[0].written, cut[0].cut) == (expected["text"][:2], 2, True)
        assert "gives no log-probabilities; set judge.answers=generated" in asked(one, requests(1))[1]


class _Echo(BaseHTTPRequestHandler):
    """Answers with the headers that it was sent, as a proxy that somebody debugs does."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": f"A {self.headers['authorization']}"}
        whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
        body = json.dumps(whole | {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.mark.parametrize("status", [301, *(pytest.param(status, marks=pytest.mark.slow) for status in (302, 307, 308))])
@pytest.mark.parametrize(
    ("location", "told"),
    [
        (
            "{other}/v1/chat/completions",
            "redirects ({status}) to {other}/v1/chat/completions, which is not followed; if "
            "you trust that address, set judge.base_url={other}/v1;",
        ),
        ("/api/v2/chat/completions?sig=s3cr3t", "set judge.base_url={own}/api/v2;"),
        (
            "https://user:s3cr3t@sso.example.org/login?to=x",
            "to https://sso.example.org/login, which is not followed: "
            "that is no address of chat completions; correct judge.base_url;",
        ),
        ("/v1/chat/completions/", "that is no address of chat completions; correct judge.base_url;"),
    ],
)
def test_a_redirect_is_not_followed_but_named(status: int, location: str, told: str, tmp_path: Path) -> None:
    class Elsewhere(_Echo):
        def do_POST(self) -> None:
            came.append(f"{self.server.server_port}{self.path}")  # type: ignore[attr-defined]
            if self.server is other:
                super().do_POST()
                return
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("location", location.format(**at))
            self.send_header("content-length", "0")
            self.end_headers()

        do_GET = do_POST

    came: list[str] = []
    own, other = (ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) for _ in range(2))
    at = {"own": f"http://127.0.0.1:{own.server_port}", "other": f"http://127.0.0.1:{other.server_port}"}
    for server in (own, other):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        one = backend(f"{at['own']}/v1", tmp_path, key_env="JUDGE_KEY", concurrency=1)
        found, fault = asked(one, requests(2, options=(), length=4))
    finally:
        for server in (own, other):
            server.shutdown()
            server.server_close()
    assert found == {}
    assert came == [f"{own.server_port}/v1/chat/completions"], "it is asked once, and no other address"
    assert told.format(status=status, **at) in fault
    assert "s3cr3t" not in fault


def test_an_answer_that_repeats_the_key_is_kept_without_it(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        came, fault = asked(
            backend(url, tmp_path, key_env="JUDGE_KEY", answers="generated"), requests(2, options=(), length=20)
        )
        server.shutdown()
    assert not fault
    assert [reply.text for reply in came.values()] == ["A Bearer …"] * 2


@pytest.mark.parametrize(("status", "charged"), [(504, True), (502, True), (503, False), (500, False)])
def test_what_a_gateway_cut_off_may_have_been_answered_and_is_charged(
    status: int, charged: bool, tmp_path: Path
) -> None:
    class Gateway(_Echo):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

    settings = {"price_read": 1000.0, "price_written": 1000.0, "max_money": 5.0, "patience": 0.0}
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        came, fault = asked(backend(f"http://127.0.0.1:{server.server_port}/v1", tmp_path, **settings), requests(1))
        server.shutdown()
    assert (came, str(status) in fault) == ({}, True)
    with closing(sqlite3.connect(tmp_path / "spending.sqlite")) as rows:
        spent = rows.execute("SELECT SUM(money) FROM spending").fetchone()[0] or 0.0
    assert (spent > 0.01) == charged
