"""A small server of /v1/completions, by transformers' own ``generate``.

``python completions_server.py FOLDER PORT`` serves the model in the folder by three
names: ``plain`` knows OpenAI's own fields only, ``vllm`` vLLM's as well, and
``mortal`` is like ``vllm``, but at its fifth request the process kills itself. A new
one takes its place half a second later, as a cluster would see to; it lives on.
"""

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PLAIN = {"model", "prompt", "max_tokens", "temperature", "top_p", "seed"}
VLLM = PLAIN | {
    *("top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("ignore_eos", "stop_token_ids", "return_token_ids", "add_special_tokens"),
}
FIELDS = {"plain": PLAIN, "vllm": VLLM, "mortal": VLLM}


class Completions(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.reply(200, {"data": [{"id": name} for name in FIELDS]})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if request["model"] not in FIELDS:
            self.reply(404, {"error": f"no model {request['model']}"})
        elif unknown := request.keys() - FIELDS[request["model"]]:
            self.reply(422, {"error": f"unknown fields {sorted(unknown)}"})
        else:
            if request["model"] == "mortal" and next(self.server.requests_left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self.reply(200, {"choices": [self.complete(request)]})

    def complete(self, request):
        tokenizer = self.server.tokenizer
        prompt = request["prompt"]
        if isinstance(prompt, str):
            prompt = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ends = [tokenizer.eos_token_id]
        if request.get("ignore_eos"):
            ends = request["stop_token_ids"]
        ids = torch.tensor([prompt])
        with self.server.one_at_a_time:  # there is one generator for all
            torch.manual_seed(request.get("seed", 0))
            written = self.server.lm.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=request["max_tokens"],
                do_sample=True,
                temperature=request.get("temperature", 1.0),
                top_k=0,
                eos_token_id=ends,
                pad_token_id=tokenizer.pad_token_id,
            )[0, len(prompt) :].tolist()
        choice = {
            "index": 0,
            "text": tokenizer.decode(written, skip_special_tokens=True),
            "finish_reason": "stop" if written[-1] in ends else "length",
        }
        if request.get("return_token_ids"):
            choice |= {"token_ids": written, "prompt_token_ids": prompt}
        return choice

    def reply(self, status, answer):
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve(folder, port):
    torch.set_num_threads(1)  # a process that has threads cannot be forked
    lm = AutoModelForCausalLM.from_pretrained(folder).eval()
    for life in count():
        if child := os.fork():
            os.waitpid(child, 0)
            time.sleep(0.5)
            continue
        server = ThreadingHTTPServer(("127.0.0.1", port), Completions)
        server.lm, server.tokenizer = lm, AutoTokenizer.from_pretrained(folder)
        server.one_at_a_time = threading.Lock()
        server.requests_left = count(4 if life == 0 else -1, -1)
        server.serve_forever()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
