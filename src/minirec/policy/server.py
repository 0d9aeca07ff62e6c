"""Let a server write the rollouts: vLLM, or another of OpenAI's completions."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from itertools import product
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import numpy as np
from pydantic import Field, field_validator

from minirec.errors import InputError
from minirec.policy.params import Params

if TYPE_CHECKING:
    from httpx2 import Client
    from transformers import PreTrainedTokenizerBase

# Seconds before a request is sent again: twice as long each time, up to a minute.
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0

# Of one answer: far more than a completion or a list of models takes.
MAX_BYTES = 2**24

# HTTP statuses that another try may cure, besides 500 and above.
BUSY = (408, 425, 429)

logger = logging.getLogger(__name__)


class ServerParams(Params):
    """Where the server is, what it serves, and how it is asked.

    ``protocol: vllm`` sends and gets token ids, and the server stops at our end
    tokens: what was sampled is what is kept. ``openai`` sends and gets text, by fields
    that every such server knows.
    """

    address: str
    """With scheme and version, such as http://localhost:8000/v1."""
    model: str
    """Name by which the server serves the proxy: the adapter's, not the base
    model's."""
    protocol: Literal["vllm", "openai"]
    """``vllm``: token ids; ``openai``: text, for other servers."""
    api_key_env: str | None
    """Name of the environment variable that holds the key, never the key; None: no
    key."""
    timeout_seconds: float = Field(gt=0)
    """For which an answer is waited for."""
    retries: int = Field(ge=0)
    """Of a request that failed, after 0.5 seconds, then twice as long each time, at
    most a minute."""
    concurrency: int = Field(ge=1)
    """Requests at once, of each worker."""

    @field_validator("address")
    @classmethod
    def check_address(cls, address: str) -> str:
        """Refuse what is no address of a server, or holds a password."""
        try:
            parts = urlsplit(address)
            usable = parts.scheme in ("http", "https") and parts.port != 0
        except ValueError:  # of a port that is no number
            usable = False
        if not usable or not parts.hostname or parts.query or parts.fragment:
            raise InputError(
                "score.probe.server.address is no address of a server: write it with "
                "scheme and version, such as http://localhost:8000/v1"
            )
        if "@" in parts.netloc:
            raise InputError(
                "score.probe.server.address holds a name or a password, which would "
                "be kept with the results: leave it out, and name the environment "
                "variable of the key in score.probe.server.api_key_env"
            )
        return address.rstrip("/")


class _AgainError(Exception):
    """A failure that another try may cure, not before so many seconds."""

    def __init__(self, said: str, seconds: float = 0.0) -> None:
        super().__init__(said)
        self.seconds = seconds


def check_server(
    server: ServerParams, tokenizer: PreTrainedTokenizerBase, prompt: str
) -> None:
    """Check, before all prompts, that the server answers and serves the model.

    Under ``protocol: vllm`` it must also read a prompt as the policy does. No check can
    tell whether the adapter it serves is the proxy's: it is known by name only.

    Raises
    ------
    InputError
        If it does not.
    """
    with _client(server) as client:
        models = _ask_once(client, server, "models", None)
        try:
            names = sorted(str(model["id"]) for model in models["data"])
        except (KeyError, TypeError):
            raise _misunderstood(server, "no data[].id in its models") from None
        if server.model not in names:
            shown = _plain(client, ", ".join(names[:10]) or "nothing")
            raise InputError(
                f"the server {server.address} serves {shown}, and not {server.model}, "
                "which score.probe.server.model names: correct the name, or start the "
                "server with the adapter under that name"
            )
        if server.protocol == "openai":
            return
        request = {
            "model": server.model,
            "prompt": prompt,
            "add_special_tokens": False,
            "max_tokens": 1,
            "return_token_ids": True,
        }
        answer = _ask_once(client, server, "completions", request)
    try:
        read = answer["choices"][0]["prompt_token_ids"]
    except (KeyError, IndexError, TypeError):
        read = None
    if read is None:
        raise _misunderstood(server, "no choices[].prompt_token_ids")
    if read != tokenizer(prompt, add_special_tokens=False)["input_ids"]:
        raise InputError(
            f"the server {server.address} reads a prompt as other tokens than "
            "policy_model does: serve the same model with the same tokenizer"
        )


def server_completions(
    server: ServerParams,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    seeds: Sequence[Sequence[int]],
    rollouts: range,
    max_new_tokens: int,
    temperature: float,
    ends: Collection[int],
) -> list[list[list[int]]]:
    """Let a server sample completions of each prompt.

    Each rollout is a request with a seed of its own (`request_seed`), so that it does
    not depend on the requests beside it, as far as the server keeps them apart. A
    request that fails is sent again, ever less often; one that fails for good ends all.

    Parameters
    ----------
    server
        Where it is; `check_server` has seen it.
    tokenizer
        The policy's, which is the server's.
    prompts
        B texts, rendered.
    seeds
        B seeds, such as ``(seed, PROBING, sample_id)``.
    rollouts
        Which completions of each prompt, G of them: 0 to 3 are those of ``range(4)``
        or of ``range(2)`` and ``range(2, 4)``.
    max_new_tokens
        Tokens after which a completion is cut.
    temperature
        Divides the logits; above 0.
    ends
        Token ids after which an answer is over (`loading.end_tokens`).

    Returns
    -------
    list of B lists of G lists of token ids
        Each ends with the token that ended it, unless it was cut. Under ``protocol:
        openai`` they are those of the text, which need not be those that were sampled,
        and a text that is over without an end token is given the tokenizer's.

    Raises
    ------
    InputError
        If the server refuses a request, fails more often than ``retries`` allow, or
        answers what cannot be understood.
    """
    ends = set(ends)
    given: Sequence[str] | list[list[int]] = prompts
    if server.protocol == "vllm":
        given = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    sampling = _sampling(server, max_new_tokens, temperature, ends)
    requests = [
        {"prompt": prompt, "seed": request_seed(seed, rollout), **sampling}
        for (prompt, seed), rollout in product(zip(given, seeds, strict=True), rollouts)
    ]
    answers = _all_answers(server, requests)
    written = [_tokens(*answer, tokenizer, ends, max_new_tokens) for answer in answers]
    group = len(rollouts)
    return [written[start : start + group] for start in range(0, len(written), group)]


def _sampling(
    server: ServerParams, max_new_tokens: int, temperature: float, ends: set[int]
) -> dict[str, Any]:
    """Return what all requests have in common."""
    common = {
        "model": server.model,
        "max_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": 1.0,
    }
    if server.protocol != "vllm":
        return common
    # Else defaults of the server or the model apply: sampling is from the whole
    # distribution, and our end tokens alone end it.
    return common | {
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "ignore_eos": True,
        "stop_token_ids": sorted(ends),
        "return_token_ids": True,
    }


def _all_answers(
    server: ServerParams, requests: list[dict[str, Any]]
) -> list[tuple[list[int] | str, bool]]:
    """Send requests side by side; return what `_complete` does of each."""
    stop, told = threading.Event(), set[int]()
    with (
        _client(server) as client,
        ThreadPoolExecutor(server.concurrency, "rollout") as threads,
    ):
        futures = [
            threads.submit(_complete, client, server, request, stop, told)
            for request in requests
        ]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failures = [error for future in done if (error := future.exception())]
        finally:  # also on Ctrl-C, nobody goes on asking
            stop.set()
            threads.shutdown(cancel_futures=True)
    if failures:
        raise failures[0]
    return [future.result() for future in futures]


def request_seed(seed: Sequence[int], rollout: int) -> int:
    """Return the seed of one rollout's request, at least 0 and below 2**63.

    Examples
    --------
    >>> request_seed((42, 0, 7), 0) == request_seed((42, 0, 7), 1)
    False
    """
    state = np.random.SeedSequence([*seed, rollout]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def _complete(
    client: Client,
    server: ServerParams,
    request: dict[str, Any],
    stop: threading.Event,
    told: set[int],
) -> tuple[list[int] | str, bool]:
    """Send a request until it is answered, or has failed too often."""
    for tries in range(1, server.retries + 2):
        try:
            return _choice(server, _ask(client, server, "completions", request))
        except _AgainError as error:
            said, least = str(error), error.seconds
        if tries > server.retries:
            raise InputError(
                f"the server {server.address} failed {tries} times in a row (at last: "
                f"{said}): see its log and start it again, or raise "
                "score.probe.server.retries or timeout_seconds"
            )
        pause = min(max(FIRST_WAIT * 2 ** (tries - 1), least), LONGEST_WAIT)
        if tries not in told:  # once for all requests that fail together
            told.add(tries)
            logger.warning(
                "The server %s failed (%s); asking again in %.1f s",
                server.address,
                said,
                pause,
            )
        if stop.wait(pause):
            break  # another request has failed for good, and its error is raised
    return [], True


def _ask_once(
    client: Client, server: ServerParams, path: str, body: dict[str, Any] | None
) -> Any:
    """Send one request, once: who starts wants to know now."""
    try:
        return _ask(client, server, path, body)
    except _AgainError as error:
        raise InputError(
            f"the server {server.address} does not answer ({error}): start it, or "
            "correct score.probe.server.address"
        ) from None


def _ask(
    client: Client, server: ServerParams, path: str, body: dict[str, Any] | None
) -> Any:
    """Send one request and return the JSON that is answered."""
    import httpx2

    deadline = time.monotonic() + server.timeout_seconds
    method = "GET" if body is None else "POST"
    answer = bytearray()
    try:
        with client.stream(method, f"{server.address}/{path}", json=body) as response:
            for part in response.iter_bytes():
                answer += part
                if len(answer) > MAX_BYTES:
                    raise _misunderstood(server, f"more than {MAX_BYTES >> 20} MiB")
                if time.monotonic() > deadline:
                    raise _AgainError(f"no end within {server.timeout_seconds:g} s")
    except httpx2.TimeoutException:
        said = f"no answer within {server.timeout_seconds:g} s"
        raise _AgainError(said) from None
    except httpx2.RequestError as error:
        raise _AgainError(str(error) or type(error).__name__) from None
    status = response.status_code
    said = _plain(client, answer.decode("utf-8", "replace"))
    if status in BUSY or status >= 500:
        after = response.headers.get("retry-after", "")
        seconds = float(after) if after.isascii() and after.isdigit() else 0.0
        raise _AgainError(f"status {status}: {said}", seconds)
    if 300 <= status < 400:
        target = _plain(client, response.headers.get("location", "elsewhere"))
        raise InputError(
            f"the server {server.address} redirects to {target}, which is not "
            "followed: name the address that answers in score.probe.server.address"
        )
    if status in (401, 403):
        raise InputError(
            f"the server {server.address} refuses the key (status {status}: {said}): "
            "name the environment variable that holds the right one in "
            "score.probe.server.api_key_env"
        )
    if status != 200:
        way = "see its log, and check address, model and protocol in score.probe.server"
        if status == 400 and "stop_token_ids" in said:  # some take 128 at most
            n = len((body or {}).get("stop_token_ids", ()))
            way = (
                f"start vLLM with the environment variable VLLM_MAX_STOP_TOKEN_IDS={n}, "
                "or set score.probe.server.protocol to openai"
            )
        raise InputError(
            f"the server {server.address} refuses {path} (status {status}: {said}): {way}"
        )
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        raise _misunderstood(server, f"no JSON but: {said}") from None


def _choice(server: ServerParams, answer: Any) -> tuple[list[int] | str, bool]:
    """Return the tokens or the text of a completion, and whether it was cut."""
    name = "token_ids" if server.protocol == "vllm" else "text"
    try:
        choice = answer["choices"][0]
        written, reason = choice[name], choice["finish_reason"]
    except (KeyError, IndexError, TypeError):
        raise _misunderstood(server, f"no choices[].{name} or finish_reason") from None
    if name == "token_ids":
        known = isinstance(written, list) and all(
            type(token) is int and token >= 0 for token in written
        )
    else:
        known = isinstance(written, str)
    if not known:
        raise _misunderstood(server, f"choices[].{name} of an unknown form")
    if reason not in ("stop", "length"):  # vLLM: abort, error
        raise _AgainError(f"a completion that ended by {reason!r}"[:100])
    return written, reason == "length"


def _tokens(
    written: list[int] | str,
    cut: bool,
    tokenizer: PreTrainedTokenizerBase,
    ends: set[int],
    max_new_tokens: int,
) -> list[int]:
    """Return a completion's tokens up to the first that ends it."""
    if isinstance(written, str):
        tokens = tokenizer(written, add_special_tokens=False)["input_ids"]
        if not cut:  # its end is not in the text
            tokens = [*tokens, tokenizer.eos_token_id]
    else:
        tokens = written
    tokens = tokens[:max_new_tokens]
    last = next((place for place, token in enumerate(tokens) if token in ends), None)
    return tokens if last is None else tokens[: last + 1]


def _client(server: ServerParams) -> Client:
    """Return an HTTP client that keeps its connections and follows no redirect."""
    import httpx2

    headers = {"Accept-Encoding": "identity"}
    if server.api_key_env is not None:
        key = os.environ.get(server.api_key_env, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise InputError(
                f"the environment variable {server.api_key_env}, which "
                "score.probe.server.api_key_env names, holds no key: export it"
            )
        headers["Authorization"] = f"Bearer {key}"
    return httpx2.Client(
        headers=headers,
        timeout=server.timeout_seconds,
        limits=httpx2.Limits(max_connections=server.concurrency),
    )


def _plain(client: Client, said: str) -> str:
    """Return the beginning of what a server said, in one line and without the key."""
    if key := client.headers.get("authorization", "").removeprefix("Bearer "):
        said = said.replace(key, "***")
    line = " ".join(said[:2000].split())
    return "".join(c if c.isprintable() else "?" for c in line)[:300] or "nothing"


def _misunderstood(server: ServerParams, what: str) -> InputError:
    return InputError(
        f"the server {server.address} answers what cannot be understood ({what}): "
        "score.probe.server.address must lead to OpenAI's completions, and "
        "score.probe.server.protocol be vllm only for a vLLM that returns token ids"
    )
