"""Rewriting by an OpenAI-compatible server: a real one on this machine that behaves well, badly, or not at all."""

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from curate.behaviors import Injection
from curate.endpoint import Answer, Cache, Client, Endpoint
from curate.errors import CheckFailed, UsageError
from curate.examples import Example, Problem, Span
from curate.injection import inject_all
from curate.rewriting import accepted

GOOD = "6 * 7 is 42. <verification>Check: 42 / 7 = 6.</verification> So \\boxed{42}."


def rows(size: int = 4) -> list[Example]:
    return [Example(f"e{i}", Problem(f"p{i}", f"Question {i}: 6 * 7?", "42", "math"), "It is \\boxed{42}.") for i in range(size)]


class Server(ThreadingHTTPServer):
    """Answers each request by `plan(number of this question's request, body)`: a status and text, or seconds to hang."""

    daemon_threads = True

    def __init__(self, plan):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan, self.seen, self.lock, self.bodies, self.keys = plan, Counter(), threading.Lock(), [], []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address):
        """The client may hang up."""


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][1]["content"]
        with self.server.lock:
            self.server.seen[question] += 1
            number = self.server.seen[question]
            self.server.bodies.append(body)
            self.server.keys.append(self.headers.get("Authorization"))
        assert self.path == "/v1/chat/completions"
        status, text = self.server.plan(number, body)
        if status == "hang":
            time.sleep(text)
            return
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0.01")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        """Quiet."""


def reply(content, finish: str = "stop") -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": finish}]})


@pytest.fixture
def serve():
    servers = []

    def start(plan) -> Server:
        server = Server(plan)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def injection(server: Server, **settings) -> Injection:
    endpoint = Endpoint(model="m", url=server.url, **{"backoff_seconds": 0.01, "timeout_seconds": 5, "retries": 3} | settings)
    return Injection(method="endpoint", verification=0.5, endpoint=endpoint)


def test_a_good_server_rewrites_every_row_and_its_marks_become_spans(serve, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    server = serve(lambda number, body: (200, reply(GOOD)))
    result = inject_all(rows(), injection(server), 0, tmp_path / "cache.jsonl")
    assert result.counts == {"injected": 4, "not_drawn": 0}
    for example in result.examples:
        assert example.completion == "6 * 7 is 42. Check: 42 / 7 = 6. So \\boxed{42}."
        assert example.spans == (Span("verification", 5, 11),)
        assert example.completion.split()[5:11] == ["Check:", "42", "/", "7", "=", "6."]
    assert set(server.keys) == {"Bearer sesame"}
    asked = server.bodies[0]
    assert "verification (50% of the steps)" in asked["messages"][0]["content"]
    assert "reflection" not in asked["messages"][0]["content"]


def test_a_second_run_asks_nothing_and_a_torn_line_costs_one_request(serve, tmp_path):
    server, cache = serve(lambda number, body: (200, reply(GOOD))), tmp_path / "cache.jsonl"
    first = inject_all(rows(), injection(server), 0, cache)
    assert inject_all(rows(), injection(server), 0, cache).examples == first.examples
    assert sum(server.seen.values()) == 4
    cache.write_bytes(cache.read_bytes()[:-20])
    assert inject_all(rows(), injection(server), 0, cache).examples == first.examples
    assert sum(server.seen.values()) == 5
    assert len(cache.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    "failure", [(429, "slow down"), (500, "oops"), (503, ""), (200, "<html>"), (200, '{"choices": []}'), ("hang", 3)]
)
def test_passing_failures_are_tried_again(serve, failure):
    server = serve(lambda number, body: failure if number < 3 else (200, reply(GOOD)))
    result = inject_all(rows(2), injection(server, timeout_seconds=0.3), 0)
    assert result.counts["injected"] == 2
    assert set(server.seen.values()) == {3}


def test_a_dead_server_ends_the_run_with_one_message_and_what_came_before_is_kept(serve, tmp_path):
    cache = tmp_path / "cache.jsonl"
    server = serve(lambda number, body: (200, reply(GOOD)) if "Question 0" in body["messages"][1]["content"] else (500, "oops"))
    with pytest.raises(CheckFailed, match=r"no answer after 4 tries \(HTTP 500\); 1 answers are kept in .*cache.jsonl"):
        inject_all(rows(), injection(server, parallel=1), 0, cache)
    assert len(cache.read_text().splitlines()) == 1


@pytest.mark.parametrize(("status", "message"), [(401, "the key is not accepted"), (404, "no such address or model")])
def test_a_wrong_key_or_model_ends_the_run_at_once(serve, status, message):
    server = serve(lambda number, body: (status, "no"))
    with pytest.raises(UsageError, match=message):
        inject_all(rows(), injection(server, parallel=1), 0)
    assert sum(server.seen.values()) == 1


def test_a_server_that_is_not_there_is_named():
    gone = Injection(method="endpoint", verification=0.5, endpoint=Endpoint(model="m", url="http://127.0.0.1:9/v1", retries=0))
    with pytest.raises(CheckFailed, match=r"http://127.0.0.1:9/v1/chat/completions: no answer after 1 tries"):
        inject_all(rows(1), gone, 0)


def test_an_address_is_needed(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(UsageError, match=r"endpoint.url \(or \$OPENAI_BASE_URL\)"):
        _ = Client(Endpoint(model="m"), Cache(None)).url


@pytest.mark.parametrize(
    ("content", "finish", "reason"),
    [
        ("<verification>6 * 7 = 43.</verification> So \\boxed{43}.", "stop", "incorrect"),
        ("<verification>6 * 7 = 42.</verification>", "stop", "no_answer"),
        ("It is \\boxed{42}.", "stop", "no_behavior"),
        ("<verification>It is \\boxed{42}.", "stop", "malformed_tags"),
        ("", "stop", "empty"),
        (GOOD, "length", "truncated"),
    ],
)
def test_a_rewrite_that_is_not_right_is_rejected_and_the_original_kept(serve, content, finish, reason):
    server = serve(lambda number, body: (200, reply(content, finish)))
    result = inject_all(rows(3), injection(server, attempts=2), 0)
    assert result.counts == {"injected": 0, "not_drawn": 0, f"rejected_{reason}": 3}
    assert result.examples == rows(3)
    assert sum(server.seen.values()) == 6
    assert {body["seed"] for body in server.bodies} == {0, 1}


def test_a_second_attempt_may_succeed_and_a_refused_row_costs_no_retry(serve):
    wrong = "<verification>6 * 7 = 43.</verification> So \\boxed{43}."
    plans = {"Question 0": lambda seed: (200, reply(wrong if seed == 0 else GOOD)), "Question 1": lambda seed: (400, "too long")}
    server = serve(lambda number, body: plans[body["messages"][1]["content"].split("\n")[1][:10]](body["seed"]))
    result = inject_all(rows(2), injection(server), 0)
    assert result.counts == {"injected": 1, "not_drawn": 0, "rejected_refused": 1}
    assert sum(server.seen.values()) == 4


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("<analysis>The question says 6.</analysis>\nSo \\boxed{42}", [("analysis", 0, 4)]),
        ("a<subgoals>b c</subgoals>d \\boxed{42}", [("subgoals", 1, 3)]),
        ("<analysis>x</analysis> <reflection>y z</reflection> \\boxed{42}", [("analysis", 0, 1), ("reflection", 1, 3)]),
    ],
)
def test_marks_are_taken_out_and_counted_in_words(text, spans):
    result = accepted(rows(1)[0], Answer(text))
    assert isinstance(result, Example)
    assert [(span.behavior, span.start, span.end) for span in result.spans] == spans
    assert "<" not in result.completion


@pytest.mark.parametrize(
    "text",
    [
        "<analysis></analysis> \\boxed{42}",
        "<analysis>a <subgoals>b</subgoals></analysis>",
        "</analysis> x",
        "<analysis>a</subgoals>",
    ],
)
def test_marks_that_do_not_pair_are_refused(text):
    assert accepted(rows(1)[0], Answer(text)) == "malformed_tags"
