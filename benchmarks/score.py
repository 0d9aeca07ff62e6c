"""Measure what scoring costs, beside the plain way to do it.

``python benchmarks/score.py``, after ``kedro run --pipelines preprocess,score``, takes
prompts, models and the proxy's adapter of the project (MovieLens-100K and
SmolLM2-135M-Instruct by default) and does each step of scoring in both ways, one after
the other, on the same prompts with the same tokens:

- rollouts and rewards: `probe_rewards`' own worker; plainly
  ``generate(num_return_sequences=G)`` on the same batches, made to write the same
  tokens, and the same rewards;
- gradients: `collect_gradients`' own worker, in the spaces ``lora`` and ``hidden``;
  plainly a backward pass for each sample, its completions as rows of their own, through
  the same parameters;
- the proxy: steps of our trainer and of TRL's.

It prints medians in a table, with the rate at which ours multiplies matrices beside
that of the machine, and as its last line JSON: plain seconds over ours, at the largest
G. ``pipeline`` counts rollouts, ``lora`` gradients and as many steps of the proxy as the
project takes for so many prompts; embedding, which is the same in both ways, is left
out.
"""

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import click
import numpy as np
import pandas as pd
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

PROJECT = Path(__file__).parents[1]

INPUTS = (
    *("prompts", "items", "item_embeddings", "initial_adapter", "proxy_adapter"),
    *("policy_model", "encoder_model"),
)

# prompts, where the project finds the number by itself
AT_ONCE = 32

Timed = dict[str, list[float]]


def timed(times: Timed, name: str, function: Callable[[], Any]) -> Any:
    """Call a function and note its seconds."""
    start = perf_counter()
    result = function()
    times.setdefault(name, []).append(perf_counter() - start)
    return result


def loaded(env: str | None, names: Iterable[str]) -> tuple[dict[str, Any], Any]:
    """Return some of the project's datasets and its checked parameters."""
    bootstrap_project(PROJECT)
    with KedroSession.create(project_path=PROJECT, env=env) as session:
        context = session.load_context()
        catalog = context.catalog
        from minirec.parameters import check_parameters

        return {name: catalog.load(name) for name in names}, check_parameters(
            context.config_loader["parameters"]
        )


def plain_rollouts(
    lm: Any, tokenizer: Any, prompts: list[str], forced: list[list[int]], limit: int
) -> list[list[int]]:
    """Let transformers generate, and write the tokens that ours wrote.

    Equal tokens make equal work; to force them costs no more than a few reads of the
    logits, which sampling reads a dozen times.
    """
    import torch
    from transformers import LogitsProcessor

    group = len(forced) // len(prompts)
    wanted = torch.full((len(forced), limit), lm.generation_config.eos_token_id[0])
    for row, tokens in enumerate(forced):
        wanted[row, : len(tokens)] = torch.tensor(tokens)

    class Force(LogitsProcessor):
        start: int | None = None

        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            self.start = ids.shape[1] if self.start is None else self.start
            token = wanted[:, ids.shape[1] - self.start, None]
            return scores.scatter_add(1, token, scores.new_full(token.shape, 1e9))

    side = tokenizer.padding_side
    tokenizer.padding_side = "left"
    rows = tokenizer(
        prompts, add_special_tokens=False, padding=True, return_tensors="pt"
    )
    tokenizer.padding_side = side
    width = rows["input_ids"].shape[1]
    written = lm.generate(
        **rows,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        num_return_sequences=group,
        max_new_tokens=limit,
        logits_processor=[Force()],
    )[:, width:]
    return [
        row[: len(tokens)] for row, tokens in zip(written.tolist(), forced, strict=True)
    ]


def plain_gradient(
    lm: Any,
    prompt: list[int],
    completions: list[list[int]],
    advantages: np.ndarray,
    temperature: float,
    parameters: list[Any],
) -> Any:
    """Return one sample's gradient: a row for each completion, one backward pass."""
    import torch

    longest = max(map(len, completions))
    ids = torch.zeros(len(completions), len(prompt) + longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, completion in enumerate(completions):
        own = torch.tensor([*prompt, *completion])
        ids[row, : len(own)] = own
        mask[row, : len(own)] = 1
    logits = lm(
        input_ids=ids,
        attention_mask=mask,
        logits_to_keep=torch.arange(len(prompt) - 1, ids.shape[1] - 1),
        use_cache=False,
    ).logits
    log_probs = (logits.float() / temperature).log_softmax(-1)
    taken = log_probs.gather(2, ids[:, len(prompt) :, None]).squeeze(2)
    weight = torch.as_tensor(advantages, dtype=taken.dtype)[:, None]
    loss = -(weight * taken * mask[:, len(prompt) :]).sum()
    return torch.autograd.grad(loss, parameters)


def products_of(function: Callable[[], Any]) -> int:
    """Return how many operations the matrix products of a call take, 2mnk each."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Counted(TorchDispatchMode):  # `FlopCounterMode` cannot follow `autograd.grad`
        total = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            with self:  # `linear` arrives whole where nothing is differentiated
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
            out = func(*args, **kwargs)
            count = flop_registry.get(func._overloadpacket)
            self.total += count(*args, **kwargs, out_val=out) if count else 0
            return out

    with Counted() as counted:
        function()
    return counted.total


def product_rate(seconds: float = 2.0) -> float:
    """Return the machine's products of bfloat16 matrices, in FLOP/s."""
    import torch

    left, right = (torch.randn(1536, 1536, dtype=torch.bfloat16) for _ in range(2))
    left @ right
    start, products = perf_counter(), 0
    while perf_counter() - start < seconds:
        left @ right
        products += 1
    return products * 2 * 1536**3 / (perf_counter() - start)


@click.command()
@click.option("--prompts", "n", default=64, show_default=True)
@click.option("--rollouts", multiple=True, type=int, default=(4, 8), show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--proxy-steps", default=1, show_default=True)
@click.option("--env", help="An environment of the project.")
def main(
    n: int, rollouts: tuple[int, ...], repeats: int, proxy_steps: int, env: str | None
) -> None:
    """Print seconds of both ways and what follows from them."""
    tables, params = loaded(env, INPUTS)
    found = {
        group: measure(tables, params, n, group, repeats, proxy_steps)
        for group in sorted(rollouts)
    }
    rate = product_rate()
    lines = [
        "| G | step | plain, s | ours, s | ratio | ours, GFLOP/s |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for group, ratios in found.items():
        for step, (plain, ours, products) in ratios.items():
            reached = f"{products / ours / 1e9:.0f}" if products else ""
            lines.append(
                f"| {group} | {step} | {plain:.2f} | {ours:.2f} | {plain / ours:.2f} | "
                f"{reached} |"
            )
    lines.append(
        f"\nThe machine multiplies bfloat16 matrices at {rate / 1e9:.0f} GFLOP/s."
    )
    click.echo("\n".join(lines))
    last = found[max(found)]
    names = ("rollouts", "lora_gradients", "hidden_gradients", "pipeline")
    click.echo(json.dumps({s: round(last[s][0] / last[s][1], 2) for s in names}))


def measure(
    tables: dict[str, Any],
    params: Any,
    n: int,
    group: int,
    repeats: int,
    proxy_steps: int,
) -> dict[str, tuple[float, float, int]]:
    """Return by step the median seconds of both ways, and operations of ours."""
    from minirec.columns import PROMPT, REWARD, SAMPLE_ID, TOKEN_ID
    from minirec.pipelines.score.nodes import _pool
    from minirec.policy.gradients import group_advantages
    from minirec.policy.rewards import Tasks
    from minirec.ranking.rewards import weighted_sum

    pool = _pool(tables["prompts"]).sample(n, random_state=0)
    pool = pool.sort_values("n_tokens", ascending=False)
    probe, collect = our_workers(tables, params, group)
    plain, parameters = plain_policy(tables, params)
    size = params.score.probe.batch_size or AT_ONCE
    batches = [pool.iloc[start : start + size] for start in range(0, n, size)]
    prompts = plain.tokenizer(pool[PROMPT].tolist(), add_special_tokens=False)
    # what both ways are given is made before the clock runs
    tasks = Tasks(pool, tables["items"])
    reward = weighted_sum(params.ranking.rewards, tables["items"])
    limit = params.policy.sampling.max_new_tokens
    temperature = params.policy.sampling.temperature

    def ours() -> pd.DataFrame:
        return pd.concat([probe(batch).to_pandas() for batch in batches])

    def in_parts(differentiate: Callable[[Any], Any], table: pd.DataFrame) -> list[Any]:
        step = params.score.gradients.batch_size or AT_ONCE
        parts = [table.iloc[start : start + step] for start in range(0, n, step)]
        return [differentiate(part) for part in parts]

    times: Timed = {}
    products = {"rollouts": products_of(ours)}
    for _ in range(repeats):
        written = timed(times, "rollouts", ours)
        again = partial(plain_probe, plain, tasks, reward, batches, written, limit)
        timed(times, "plain rollouts", again)
        tokens = written.groupby(SAMPLE_ID)[TOKEN_ID].agg(list)
        table = pool[[SAMPLE_ID, PROMPT]].join(tokens, on=SAMPLE_ID)
        rng = np.random.default_rng(0)  # spread rewards: equal ones would cost nothing
        table[REWARD] = list(rng.random((n, group)))
        for space, differentiate in collect.items():
            name, own = f"{space}_gradients", partial(in_parts, differentiate, table)
            if name not in products:
                products[name] = products_of(own)
            timed(times, name, own)
        advantages = group_advantages(table[REWARD].tolist())
        alone = partial(
            plain_gradients,
            plain,
            prompts["input_ids"],
            table[TOKEN_ID],
            advantages,
            temperature,
            parameters,
        )
        timed(times, "plain gradients", alone)
    proxy(times, tables, params, pool, proxy_steps, repeats)
    return steps_of(times, products, params, len(pool), proxy_steps)


def our_workers(
    tables: dict[str, Any], params: Any, group: int
) -> tuple[Callable[[Any], Any], dict[str, Callable[[Any], Any]]]:
    """Return what the project probes by, and what it differentiates by in each space."""
    from minirec.policy.workers import make_differentiator, make_prober

    names = ("policy_model", "encoder_model", "items", "item_embeddings")
    probe = make_prober(
        **{name: tables[name] for name in names},
        adapter=tables["proxy_adapter"],
        policy=params.policy,
        ranking=params.ranking,
        rollouts=group,
        adaptive=None,
        server=None,
        seed=params.seed,
    )
    gradient = params.score.gradients
    collect = {
        space: make_differentiator(
            tables["policy_model"],
            tables["proxy_adapter"],
            params.policy,
            space,
            gradient.last_blocks,
            gradient.dimensions,
            params.seed,
        )
        for space in ("lora", "hidden")
    }
    return probe, collect


def plain_policy(tables: dict[str, Any], params: Any) -> tuple[Any, list[Any]]:
    """Return the proxy, and its parameters in which gradients are taken."""
    from minirec.policy import gradients
    from minirec.policy.text import load_catalogue, load_policy

    names = ("encoder_model", "items", "item_embeddings")
    plain = load_policy(
        tables["policy_model"],
        tables["proxy_adapter"],
        load_catalogue(*(tables[name] for name in names), params.ranking),
        params.policy,
    )
    blocks = params.score.gradients.last_blocks
    parameters = [p for _, p in gradients.trainable_parameters(plain.lm, blocks)]
    for parameter in plain.lm.parameters():
        parameter.requires_grad_(any(parameter is own for own in parameters))
    return plain, parameters


def plain_probe(
    plain: Any,
    tasks: Any,
    reward: Callable[..., np.ndarray],
    batches: list[pd.DataFrame],
    written: pd.DataFrame,
    limit: int,
) -> None:
    """Let transformers write what ours wrote, and reward it."""
    import torch

    from minirec.columns import PROMPT, SAMPLE_ID, TOKEN_ID
    from minirec.policy.rewards import Written, reward_completions

    by_sample = written.groupby(SAMPLE_ID)[TOKEN_ID].agg(list)
    for batch in batches:
        forced = [list(t) for s in batch[SAMPLE_ID] for t in by_sample[s]]
        prompts = batch[PROMPT].tolist()
        with torch.inference_mode():
            tokens = plain_rollouts(plain.lm, plain.tokenizer, prompts, forced, limit)
        if tokens != forced:
            raise click.ClickException("generate wrote other tokens than ours")
        texts = plain.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        ids = batch[SAMPLE_ID].repeat(len(forced) // len(batch)).to_numpy()
        reward_completions(plain, tasks, reward, ids, Written(texts))


def plain_gradients(
    plain: Any,
    prompts: list[list[int]],
    completions: Iterable[Any],
    advantages: Iterable[np.ndarray],
    temperature: float,
    parameters: list[Any],
) -> None:
    """Take each sample's gradient by itself."""
    for prompt, written, advantage in zip(
        prompts, completions, advantages, strict=True
    ):
        plain_gradient(
            plain.lm,
            prompt,
            [list(tokens) for tokens in written],
            advantage,
            temperature,
            parameters,
        )


def steps_of(
    times: Timed, products: dict[str, int], params: Any, n: int, proxy_steps: int
) -> dict[str, tuple[float, float, int]]:
    """Return by step the median seconds of both ways, and operations of ours."""
    middle = {name: median(seconds) for name, seconds in times.items()}
    beside = {"rollouts": "plain rollouts", "proxy": "plain proxy"}
    steps = {
        step: (
            middle[beside.get(step, "plain gradients")],
            middle[step],
            products.get(step, 0),
        )
        for step in ("rollouts", "lora_gradients", "hidden_gradients", "proxy")
    }
    # as many steps for n prompts as the project takes for its pool
    every = params.score.proxy.prompts / params.score.proxy.prompts_per_step
    share = every * n / (params.preprocess.pool.train or n) / proxy_steps
    whole = [
        steps["rollouts"][way]
        + steps["lora_gradients"][way]
        + share * steps["proxy"][way]
        for way in (0, 1)
    ]
    steps["pipeline"] = (whole[0], whole[1], 0)
    return steps


def plain_trainer() -> Any:
    """Return TRL's own trainer, which takes what ours is given."""
    from trl import GRPOTrainer

    class Plain(GRPOTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            for _ in kwargs.pop("order"):  # the curriculum's, which TRL keeps by itself
                pass
            ours = ("rollout_func", "n", "checkpoints", "earned")
            theirs = {k: v for k, v in kwargs.items() if k not in ours}
            super().__init__(*args, **theirs)

    return Plain


def proxy(
    times: Timed,
    tables: dict[str, Any],
    params: Any,
    pool: pd.DataFrame,
    n_steps: int,
    repeats: int,
) -> None:
    """Take steps of the proxy's training by our trainer and by TRL's own.

    Counted is the training alone, without loading models.
    """
    from minirec.columns import MEAN_REWARD, SAMPLE_ID, STAGE
    from minirec.training import packed_trainer
    from minirec.training.grpo import train_adapter

    packed = packed_trainer.PackedGRPOTrainer

    class Ours(packed):  # type: ignore[valid-type,misc]
        def train(self, *args: Any, **kwargs: Any) -> Any:
            return timed(times, "proxy", lambda: super(Ours, self).train(*args))

    class Plain(plain_trainer()):  # type: ignore[misc]
        def train(self, *args: Any, **kwargs: Any) -> Any:
            return timed(times, "plain proxy", lambda: super(Plain, self).train(*args))

    settings = params.score.proxy
    first = pool[[SAMPLE_ID]].head(n_steps * settings.prompts_per_step)
    names = ("items", "item_embeddings", "policy_model", "encoder_model")
    try:
        for trainer in [Ours, Plain] * repeats:
            packed_trainer.PackedGRPOTrainer = trainer  # type: ignore[misc]
            train_adapter(
                tables["initial_adapter"],
                first.assign(**{STAGE: 0, MEAN_REWARD: np.nan}),
                pool,
                *(tables[name] for name in names),
                params.policy,
                params.ranking,
                settings.grpo,
                settings.prompts_per_step,
                None,
                params.seed,
                "proxy",
                None,
            )
    finally:
        packed_trainer.PackedGRPOTrainer = packed  # type: ignore[misc]


if __name__ == "__main__":
    main()
