"""A real HTTP server that holds a real small model and answers `/v1/completions` as vLLM 0.32.0 does: same requests, same JSON."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERSION = "0.32.0"
SAMPLED = {}
"""Completions by model and request: most tests ask for the same ones."""


class CompletionsServer(ThreadingHTTPServer):
    """Samples with `sampler`, of which choice i of a request has the seed `seed + i`.

    `spoil(body, answer)` may change an answer, or return (status, text) in its place; `root` is where the model is said to lie.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, sampler, *, root: str = "", spoil=None, model: str = "tiny", max_model_len: int = 512, owner: str = "vllm"
    ):
        super().__init__(("127.0.0.1", 0), Handler)
        self.sampler, self.root, self.spoil, self.owner = sampler, root, spoil or (lambda body, answer: answer), owner
        self.model, self.max_model_len = model, max_model_len
        self.lock, self.bodies = threading.Lock(), []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address):
        """The client may hang up."""

    def models(self) -> dict:
        card = {"id": self.model, "object": "model", "created": 1, "owned_by": self.owner, "root": self.root, "parent": None}
        return {"object": "list", "data": [card | {"max_model_len": self.max_model_len, "permission": []}]}

    def complete(self, body: dict):
        """One request at a time: the sampler's model is one, and torch has one thread here."""
        with self.lock:
            self.bodies.append(body)
            choices = [self.choice(body, index) for index in reversed(range(body["n"]))]  # in any order
        used = sum(len(choice["token_ids"]) for choice in choices)
        usage = {"prompt_tokens": len(body["prompt"]), "total_tokens": len(body["prompt"]) + used, "completion_tokens": used}
        answer = {"id": "cmpl-0", "object": "text_completion", "created": 1, "model": body["model"], "choices": choices}
        return self.spoil(body, answer | {"usage": usage})

    def sampled(self, body: dict, seed: int):
        settings = {name: body[name] for name in ("max_tokens", "temperature")} | {"group_size": 1, "seed": seed}
        known = (self.sampler.model, str((body["prompt"], settings)))
        if known not in SAMPLED:
            SAMPLED[known] = self.sampler.sample([body["prompt"]], **settings)
        return SAMPLED[known]

    def choice(self, body: dict, index: int) -> dict:
        rollouts = self.sampled(body, body["seed"] + index)
        tokens, ended = rollouts.tokens[0].tolist(), bool(rollouts.finished[0])
        nats = None if body["logprobs"] is None else {"token_logprobs": rollouts.logprobs[0].tolist()}
        reason = (
            {"finish_reason": "stop", "stop_reason": tokens[-1]} if ended else {"finish_reason": "length", "stop_reason": None}
        )
        return {
            "index": index,
            "text": "",
            "logprobs": nats,
            **reason,
            "token_ids": tokens,
            "prompt_logprobs": None,
            "prompt_token_ids": body["prompt"],
        }


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        known = {"/v1/models": self.server.models()} | ({"/version": {"version": VERSION}} if self.server.owner == "vllm" else {})
        self.answer(*((200, known[self.path]) if self.path in known else (404, {"detail": "Not Found"})))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/completions"
        answer = self.server.complete(body)
        self.answer(*(answer if isinstance(answer, tuple) else (200, answer)))

    def answer(self, status: int, content) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write((content if isinstance(content, str) else json.dumps(content)).encode())

    def log_message(self, *_):
        """Quiet."""
