import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from minirec.errors import InputError
from minirec.policy import server as module
from minirec.policy.loading import end_tokens, load_model, load_tokenizer
from minirec.policy.server import (
    ServerParams,
    check_server,
    request_seed,
    server_completions,
)

PROMPTS = ["The Silent Harbour", "Paper", "The Golden Machine and The Broken Orchard"]
SEEDS = [(7, 0, sample_id) for sample_id in range(3)]
START_SECONDS = 120  # a server that loads torch, on a loaded machine


@pytest.fixture(scope="module")
def tokenizer(policy_model):
    return load_tokenizer(policy_model)


@pytest.fixture(scope="module")
def ends(policy_model, tokenizer, policy_params):
    return end_tokens(policy_model, tokenizer, policy_params.prompt)


@pytest.fixture(scope="module", autouse=True)
def no_proxy():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield


@pytest.fixture
def complete(tokenizer, ends):
    """Return a function that lets a server complete the prompts, 4 times each."""

    def run(server, prompts=PROMPTS, seeds=SEEDS, rollouts=range(4), max_new_tokens=8):
        return server_completions(
            server, tokenizer, prompts, seeds, rollouts, max_new_tokens, 1.0, ends
        )

    return run


def params(address, **changed):
    usual = {
        "model": "vllm",
        "protocol": "vllm",
        "api_key_env": None,
        "timeout_seconds": START_SECONDS,
        "retries": 2,
        "concurrency": 4,
    }
    return ServerParams(address=address, **{**usual, **changed})


# ---- a server of a real model, in a process of its own


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def process(command, port, path, log, **environment):
    """Run a server as long as the block lasts; it answers ``path`` once it is ready."""
    with log.open("w") as output:
        started = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        )
    try:
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}").close()
                break
            except OSError:
                assert started.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()


@pytest.fixture(scope="module")
def address(policy_model, tmp_path_factory):
    """The address of `completions_server.py` on the small policy."""
    program = Path(__file__).with_name("completions_server.py")
    folder, port = policy_model["pretrained_model_name_or_path"], free_port()
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, str(program), folder, str(port)]
    with process(command, port, "/v1/models", log) as address:
        yield address


@pytest.fixture(scope="module")
def generated(policy_model, policy_params, tokenizer):
    """What `generate` writes for a prompt and the seed of a request."""
    lm = load_model(policy_model, "float32", tokenizer, policy_params.prompt)

    def generate(prompt, seed, ends):
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        torch.manual_seed(seed)
        return lm.generate(
            **ids, max_new_tokens=8, do_sample=True, top_k=0, eos_token_id=ends
        )[0, ids["input_ids"].shape[1] :].tolist()

    return generate


def test_the_server_writes_what_the_policy_would(
    address, complete, generated, tokenizer, ends
):
    server = params(address)
    check_server(server, tokenizer, PROMPTS[0])
    expected = [
        [generated(prompt, request_seed(seed, rollout), ends) for rollout in range(4)]
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]
    assert complete(server) == expected


def test_rollouts_do_not_depend_on_those_beside_them(address, complete):
    together = complete(params(address))
    one_by_one = params(address, concurrency=1)
    alone = [
        complete(one_by_one, [prompt], [seed], rollouts=range(2, 4))[0]
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]
    assert alone == [group[2:] for group in together]


def test_by_the_standard_alone_tokens_are_those_of_the_text(
    address, complete, generated, tokenizer, ends
):
    server = params(address, model="plain", protocol="openai")
    check_server(server, tokenizer, PROMPTS[0])
    assert complete(server) == read_from_text(generated, tokenizer, ends)


def read_from_text(generated, tokenizer, ends):
    """Return what is left of what is sampled, when only its text is told."""
    groups = []
    eos = tokenizer.eos_token_id
    for prompt, seed in zip(PROMPTS, SEEDS, strict=True):
        groups.append([])
        for rollout in range(4):
            sampled = generated(prompt, request_seed(seed, rollout), [eos])
            text = tokenizer.decode(sampled, skip_special_tokens=True)
            read = tokenizer(text, add_special_tokens=False)["input_ids"]
            read = [*read, eos][:8] if sampled[-1] == eos else read[:8]
            first = next((i for i, t in enumerate(read) if t in ends), 8)
            groups[-1].append(read[: first + 1])
    return groups


def test_a_server_that_dies_and_comes_back_changes_nothing(address, complete, caplog):
    expected = complete(params(address))
    # one process or another answers: of 12 requests the fifth killed the first
    with caplog.at_level("WARNING", logger=module.__name__):
        survived = complete(params(address, model="mortal", retries=8))
    assert survived == expected
    assert "asking again in" in caplog.text


def test_vllms_fields_are_refused_by_others(address, complete):
    with pytest.raises(InputError, match=r"status 422.*protocol in score\.probe"):
        complete(params(address, model="plain"))


def test_a_model_that_is_not_served(address, tokenizer):
    served = "serves mortal, plain, vllm, and not proxy, which score.probe.server.model"
    with pytest.raises(InputError, match=served):
        check_server(params(address, model="proxy"), tokenizer, PROMPTS[0])


# ---- transformers' own server


@pytest.fixture(scope="module")
def transformers_serve(policy_model, tmp_path_factory):
    """The address of ``transformers serve``, which knows the small policy by a name."""
    pytest.importorskip("openai", reason="transformers serve needs openai")
    home = tmp_path_factory.mktemp("hub")
    model = home / "hub" / "models--minirec--small"
    revision = "0" * 40
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(revision)
    snapshot = model / "snapshots" / revision
    shutil.copytree(policy_model["pretrained_model_name_or_path"], snapshot)
    defaults = json.loads((snapshot / "generation_config.json").read_text())
    sampling = {**defaults, "do_sample": True, "top_k": 0}  # no request can say so
    (snapshot / "generation_config.json").write_text(json.dumps(sampling))
    program = "from transformers.cli.transformers import main; main()"
    port = free_port()
    command = [sys.executable, "-c", program, "serve", "--device", "cpu"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with process(command, port, "/health", home / "log", HF_HOME=str(home)) as address:
        yield address


def test_transformers_serve(transformers_serve, complete, generated, tokenizer, ends):
    # it has one generator for all requests: seeds hold for one request at a time
    small = {"model": "minirec/small", "protocol": "openai", "concurrency": 1}
    server = params(transformers_serve, **small)
    check_server(server, tokenizer, PROMPTS[0])
    assert complete(server) == read_from_text(generated, tokenizer, ends)
    with pytest.raises(InputError, match="serves minirec/small, and not proxy"):
        check_server(
            params(transformers_serve, **{**small, "model": "proxy"}), tokenizer, "a"
        )


# ---- a server that answers what a test tells it to


@pytest.fixture
def scripted(monkeypatch):
    """Start a server by a function from a request to (status, headers, body).

    The function may also return None, to hang up. What was asked is in ``requests``.
    """
    monkeypatch.setattr(module, "FIRST_WAIT", 0.01)
    started = []

    def start(behave, certificate=None):
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                self.do_POST()

            def do_POST(self):
                length = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(length) or "null")
                asked = SimpleNamespace(path=self.path, headers=self.headers, body=body)
                server.requests.append(asked)
                if (answer := behave(asked)) is None:
                    return
                status, headers, said = answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    for part in [said] if isinstance(said, bytes) else said:
                        self.wfile.write(part)
                        self.wfile.flush()
                except OSError:
                    pass  # the client has had enough

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads, server.block_on_close = True, False
        server.requests = []
        server.address = f"http://127.0.0.1:{server.server_port}/v1"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
            server.address = server.address.replace("http:", "https:")
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def ok(**choice):
    usual = {"token_ids": [2], "text": "", "finish_reason": "stop"}
    return 200, {}, json.dumps({"choices": [{**usual, **choice}]}).encode()


def one(complete, server, **changed):
    """Return the one completion of one prompt."""
    asked = params(server.address, **changed)
    ((tokens,),) = complete(asked, ["Paper"], [(1,)], rollouts=range(1))
    return tokens


def test_what_is_sent(scripted, complete, tokenizer, ends):
    server = scripted(lambda asked: ok())
    one(complete, server)
    (asked,) = server.requests
    assert asked.path == "/v1/completions"
    assert asked.body == {
        "model": "vllm",
        "prompt": tokenizer("Paper", add_special_tokens=False)["input_ids"],
        "seed": request_seed((1,), 0),
        "max_tokens": 8,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "ignore_eos": True,
        "stop_token_ids": ends,
        "return_token_ids": True,
    }


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ((429, {"Retry-After": "0"}, b"too many"), "status 429: too many"),
        ((500, {}, b""), "status 500: nothing"),
        ((503, {}, b"loading\n the\tmodel\x1b"), "status 503: loading the model?"),
        (None, "disconnected"),
        ((200, {"Content-Length": "99"}, b'{"choices"'), "peer closed"),
        (ok(finish_reason="abort"), "a completion that ended by 'abort'"),
    ],
)
def test_what_another_try_may_cure_is_tried_again(
    scripted, complete, caplog, failure, said
):
    answers = iter([failure, failure, ok(token_ids=[9, 2])])
    server = scripted(lambda asked: next(answers))
    with caplog.at_level("WARNING", logger=module.__name__):
        assert one(complete, server) == [9, 2]
    assert said in caplog.text
    first, second, third = (asked.body for asked in server.requests)
    assert first == second == third


def test_the_server_says_how_long_to_wait(scripted, complete, caplog):
    answers = iter([(429, {"Retry-After": "1"}, b""), ok()])
    server = scripted(lambda asked: next(answers))
    started = time.monotonic()
    one(complete, server)
    assert time.monotonic() - started >= 1
    assert "asking again in 1.0 s" in caplog.text


def test_tries_have_an_end(scripted, complete):
    server = scripted(lambda asked: (502, {}, b"bad gateway"))
    with pytest.raises(
        InputError,
        match=r"failed 3 times in a row \(at last: status 502: bad gateway\).*retries",
    ):
        one(complete, server, retries=2)
    assert len(server.requests) == 3


def test_what_fails_for_good_ends_all(scripted, complete):
    def behave(asked):
        first = asked.body["seed"] == request_seed(SEEDS[0], 0)
        return (400, {}, b"no") if first else (503, {"Retry-After": "60"}, b"")

    server = scripted(behave)
    started = time.monotonic()
    with pytest.raises(InputError, match=r"refuses completions \(status 400: no\)"):
        complete(params(server.address, concurrency=12, retries=9))
    assert time.monotonic() - started < 30  # and not the minute that others wait


def test_nobody_there(complete, tokenizer):
    nowhere = params(f"http://127.0.0.1:{free_port()}/v1", retries=0)
    with pytest.raises(InputError, match=r"does not answer .*: start it, or correct"):
        check_server(nowhere, tokenizer, PROMPTS[0])
    with pytest.raises(InputError, match=r"failed 1 times .*refused"):
        complete(nowhere)


def test_an_answer_has_its_time(scripted, complete):
    release = threading.Event()

    def late(asked):
        release.wait(START_SECONDS)

    with pytest.raises(InputError, match=r"no answer within 0\.2 s"):
        one(complete, scripted(late), timeout_seconds=0.2, retries=0)
    release.set()


def test_an_answer_that_trickles_has_its_time_too(scripted, complete):
    def trickle():
        while True:
            time.sleep(0.05)
            yield b" "

    server = scripted(lambda asked: (200, {}, trickle()))
    with pytest.raises(InputError, match=r"no (end|answer) within 0\.3 s"):
        one(complete, server, timeout_seconds=0.3, retries=0)


def test_an_answer_has_a_largest_size(scripted, complete, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 2**20)

    def endless():
        while True:
            yield b" " * 2**16

    server = scripted(lambda asked: (200, {}, endless()))
    with pytest.raises(InputError, match=r"more than 1 MiB"):
        one(complete, server)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"<html>Welcome</html>", "no JSON but: <html>Welcome</html>"),
        (b"[" * 100_000, "no JSON but"),
        (b"[]", "no choices"),
        (b'{"choices": []}', "no choices"),
        (b'{"choices": [{"text": "a", "finish_reason": "stop"}]}', "no choices.*ids"),
        (b'{"choices": [{"token_ids": [1]}]}', "or finish_reason"),
        (
            b'{"choices": [{"token_ids": [1, "2"], "finish_reason": "stop"}]}',
            "of an unknown form",
        ),
        (
            b'{"choices": [{"token_ids": [-1], "finish_reason": "stop"}]}',
            "of an unknown form",
        ),
    ],
)
def test_what_cannot_be_understood(scripted, complete, body, what):
    server = scripted(lambda asked: (200, {}, body))
    with pytest.raises(InputError, match=what):
        one(complete, server)
    assert len(server.requests) == 1


def test_too_many_end_tokens_for_vllm(scripted, complete, ends):
    server = scripted(lambda asked: (400, {}, b"stop_token_ids has 3 entries"))
    with pytest.raises(InputError, match=f"VLLM_MAX_STOP_TOKEN_IDS={len(ends)}"):
        one(complete, server)


@pytest.mark.parametrize(
    ("choice", "tokens"),
    [
        # 4 is the quotation mark and 2 the end token
        ({"token_ids": [9, 8, 4]}, [9, 8, 4]),
        ({"token_ids": [9, 4, 8, 2]}, [9, 4]),
        ({"token_ids": [], "finish_reason": "length"}, []),
        ({"token_ids": [9] * 12, "finish_reason": "length"}, [9] * 8),
    ],
)
def test_tokens_end_as_ours_do(scripted, complete, tokenizer, choice, tokens):
    assert tokenizer.decode([4]) == '"'
    assert one(complete, scripted(lambda asked: ok(**choice))) == tokens


@pytest.mark.parametrize(
    ("text", "reason", "ending"),
    [
        ("", "stop", ["<|end|>"]),
        ("", "length", []),
        ("a", "stop", ["a", "<|end|>"]),
        ("a", "length", ["a"]),
        ('a" b', "stop", ["a", '"']),
        ("a\nb\n", "length", ["a", "\n"]),
        ("a" * 20, "stop", ["a"] * 8),
    ],
)
def test_texts_end_as_ours_do(scripted, complete, tokenizer, text, reason, ending):
    server = scripted(lambda asked: ok(text=text, finish_reason=reason))
    tokens = one(complete, server, protocol="openai")
    assert [tokenizer.decode([token]) for token in tokens] == ending


def test_another_tokenizer_is_noticed(scripted, tokenizer):
    def behave(asked):
        if asked.path == "/v1/models":
            return 200, {}, b'{"data": [{"id": "vllm"}]}'
        return ok(prompt_token_ids=[1, 2, 3])

    server = scripted(behave)
    with pytest.raises(InputError, match="as other tokens than policy_model"):
        check_server(params(server.address), tokenizer, PROMPTS[0])
    assert server.requests[1].body["add_special_tokens"] is False


@pytest.mark.parametrize("models", [b"{}", b'{"data": [1]}', b'{"data": null}'])
def test_a_list_of_models_that_is_none(scripted, tokenizer, models):
    server = scripted(lambda asked: (200, {}, models))
    with pytest.raises(InputError, match="in its models"):
        check_server(params(server.address), tokenizer, PROMPTS[0])


# ---- the key, and who may hear it


def test_the_key_is_sent_and_never_told(scripted, complete, monkeypatch, caplog):
    monkeypatch.setenv("OUR_KEY", "sk-of-nobody")

    def echo(asked):
        key = asked.headers["Authorization"]
        status = 401 if len(server.requests) > 1 else 500
        return status, {}, f"you said {key}".encode()

    server = scripted(echo)
    with (
        caplog.at_level("DEBUG"),
        pytest.raises(InputError, match=r"refuses the key.*Bearer \*\*\*") as raised,
    ):
        one(complete, server, api_key_env="OUR_KEY")
    assert server.requests[0].headers["Authorization"] == "Bearer sk-of-nobody"
    assert "Bearer ***" in caplog.text
    assert "sk-of-nobody" not in caplog.text + str(raised.value)


@pytest.mark.parametrize("key", [None, " ", "two\nlines", "schlüssel"])
def test_a_key_that_is_none(monkeypatch, complete, key):
    monkeypatch.delenv("OUR_KEY", raising=False)
    if key:
        monkeypatch.setenv("OUR_KEY", key)
    with pytest.raises(InputError, match=r"OUR_KEY, which .* holds no key") as raised:
        complete(params("http://localhost:1/v1", api_key_env="OUR_KEY"))
    assert not (key and key.strip()) or key not in str(raised.value)


def test_redirects_are_not_followed(scripted, complete, monkeypatch):
    monkeypatch.setenv("OUR_KEY", "sk-of-nobody")
    other = scripted(lambda asked: ok())
    headers = {"Location": f"{other.address}/completions"}
    server = scripted(lambda asked: (307, headers, b""))
    with pytest.raises(InputError, match=f"redirects to {other.address}"):
        one(complete, server, api_key_env="OUR_KEY")
    assert other.requests == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost that nobody vouches for, and its key."""
    if not (openssl := shutil.which("openssl")):
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("certificate")
    made = folder / "certificate.pem", folder / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-out", str(made[0]), "-keyout", str(made[1])]
    command = [openssl, "req", "-x509", "-days", "2", *curve, *name, *files]
    subprocess.run(command, check=True, capture_output=True)
    return made


def test_certificates_are_verified(scripted, complete, certificate, monkeypatch):
    server = scripted(lambda asked: ok(), certificate)
    with pytest.raises(InputError, match="CERTIFICATE_VERIFY_FAILED"):
        one(complete, server, retries=0)
    assert server.requests == []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    assert one(complete, server) == [2]


# ---- parameters and seeds


@pytest.mark.parametrize(
    "address",
    [
        *("", "localhost:8000", "ftp://host/v1", "http://", "http://host:port/v1"),
        *("http://host/v1?key=1", "http://host/v1#a", "http://host:0/v1"),
    ],
)
def test_an_address_that_is_none(address):
    with pytest.raises((InputError, ValidationError), match="is no address"):
        params(address)


def test_an_address_holds_no_password():
    with pytest.raises((InputError, ValidationError), match="api_key_env") as raised:
        params("https://me:secret@host/v1")
    assert "score.probe.server.address holds" in str(raised.value)


def test_a_slash_at_the_end_is_no_difference():
    assert params("http://host/v1/") == params("http://host/v1")


@settings(max_examples=50)
@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=3), st.integers(0, 1000))
def test_seeds_are_of_63_bits_and_of_one_rollout_each(seed, rollout):
    own, next_one = request_seed(seed, rollout), request_seed(seed, rollout + 1)
    assert 0 <= own < 2**63
    assert own != next_one
    assert own == request_seed(tuple(seed), rollout)
