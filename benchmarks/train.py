"""Measure a GRPO step of our trainer beside TRL's own.

``python benchmarks/train.py``, after ``kedro run --pipelines preprocess``, trains the
project's policy (SmolLM2-135M-Instruct with LoRA by default) for some steps on its own
prompts, those of about 100 tokens, as `minirec.training.grpo.train_grpo` does, once by
`PackedGRPOTrainer` and once by TRL's ``GRPOTrainer``, with the same settings and the
same prompts. Every completion has 24 tokens: nothing ends one earlier. Rewards come
from invented scores, which cost nothing. A step holds generation, rewards, loss,
gradient and the optimiser's step; the first one of each run is left out.

Both are also given the same completions, and their gradients are compared with one
another and with those that transformers computes in float64, a row for each completion.

It prints medians in a table, and as its last line JSON: ``grpo_step`` is TRL's seconds
over ours in the precision of ``policy.dtype``, beside it the same for every precision,
and how far the gradients lie from those in float64, as a share of their length.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from types import MethodType
from typing import Any
from zlib import crc32

import click
import numpy as np
import pandas as pd

sys.path.append(str(Path(__file__).parent))  # which select.py here has taken away
from score import loaded, plain_trainer

TOKENS = 100  # of a prompt, about
EXACT = "float64"

Gradients = dict[str, Any]  # by who computed them: one vector


class Invented:
    """A catalogue whose scores of a text are random, and always the same."""

    def __init__(self, n_items: int) -> None:
        self.n_items = n_items

    def ground(self, texts: list[str]) -> np.ndarray:
        """Return scores (N, M) for N texts."""
        draws = [np.random.default_rng(crc32(text.encode())) for text in texts]
        return np.array([rng.random(self.n_items) for rng in draws])


def top_half(ranks: np.ndarray, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Reward a rank in proportion."""
    return 1 - ranks / scores.shape[1]


def trainers(times: dict[str, list[float]], limit: int) -> dict[str, type]:
    """Return both trainers; they note the seconds of their steps."""
    from transformers import TrainerCallback

    from minirec.training.packed_trainer import PackedGRPOTrainer

    class Clock(TrainerCallback):
        def __init__(self, name: str) -> None:
            self.noted = times.setdefault(name, [])
            self.last: float | None = None

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = perf_counter()
            if self.last is not None:  # the first step warms up
                self.noted.append(now - self.last)
            self.last = now

    class Ours(PackedGRPOTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.add_callback(Clock("ours"))

    class Plain(plain_trainer()):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.generation_config.min_new_tokens = limit
            self.add_callback(Clock("plain"))

    return {"ours": Ours, "plain": Plain}


def comparing(found: Gradients, dtype: str, given: list[Any]) -> type:
    """Return a trainer that notes the gradients of the first completions of all.

    ``given`` holds these: they are those of the first trainer that asks.
    """
    import torch
    from trl import GRPOTrainer

    from minirec.training.packed_trainer import PackedGRPOTrainer

    def in_rows(
        self: Any, model: Any, ids: Any, mask: Any, kept: int, *_: Any, **__: Any
    ) -> tuple[Any, Any, None]:
        position = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = model(ids, attention_mask=mask, position_ids=position).logits
        log_probs = (logits[:, -kept - 1 : -1] / self.temperature).log_softmax(-1)
        taken = log_probs.gather(2, ids[:, -kept:, None]).squeeze(2)
        return taken, torch.zeros_like(taken), None

    name = "_get_per_token_logps_and_entropies"
    ways: dict[str, Callable[..., Any]] = {EXACT: in_rows}
    if dtype != EXACT:
        ways = {
            f"ours, {dtype}": getattr(PackedGRPOTrainer, name),
            f"plain, {dtype}": getattr(GRPOTrainer, name),
        }

    class Comparing(PackedGRPOTrainer):
        def compute_loss(
            self, model: Any, inputs: Any, *args: Any, **kwargs: Any
        ) -> Any:
            if not given:
                given.append(inputs)
            parameters = [p for p in model.parameters() if p.requires_grad]
            for way, function in ways.items():
                setattr(self, name, MethodType(function, self))
                loss = super().compute_loss(model, given[0], *args, **kwargs)
                each = torch.autograd.grad(loss, parameters)
                found[way] = torch.cat([g.double().flatten() for g in each])
            return super().compute_loss(model, given[0], *args, **kwargs)

    return Comparing


def train(
    trainer: type,
    lm: Any,
    tokenizer: Any,
    pool: pd.DataFrame,
    items: pd.DataFrame,
    params: Any,
) -> None:
    """Train on a pool with the project's settings, by another trainer."""
    from minirec.columns import MEAN_REWARD, SAMPLE_ID, STAGE
    from minirec.policy.rewards import Tasks
    from minirec.policy.text import TextPolicy
    from minirec.training import packed_trainer
    from minirec.training.grpo import train_grpo

    catalogue: Any = Invented(len(items))
    own, settings = packed_trainer.PackedGRPOTrainer, params.train_eval.train
    packed_trainer.PackedGRPOTrainer = trainer  # type: ignore[misc]
    try:
        train_grpo(
            TextPolicy(catalogue, params.policy, lm, tokenizer),
            pool[[SAMPLE_ID]].assign(**{STAGE: 0, MEAN_REWARD: np.nan}),
            pool,
            Tasks(pool, items),
            top_half,
            settings.grpo,
            settings.prompts_per_step,
            None,
            params.seed,
            "train",
        )
    finally:
        packed_trainer.PackedGRPOTrainer = own  # type: ignore[misc]


@click.command()
@click.option("--dtype", multiple=True, help="policy.dtype and float32 by default.")
@click.option("--steps", default=5, show_default=True, help="Of each run.")
@click.option("--repeats", default=1, show_default=True, help="Runs of each trainer.")
@click.option("--prompts", default=4, show_default=True, help="Of a step.")
@click.option("--group", default=4, show_default=True, help="Completions of a prompt.")
@click.option("--parts", default=1, show_default=True, help="That a step is cut into.")
@click.option("--limit", default=24, show_default=True, help="Tokens of a completion.")
@click.option("--exact/--no-exact", default=True, help="Compare with float64.")
@click.option("--env", help="An environment of the project.")
def main(
    dtype: tuple[str, ...],
    steps: int,
    repeats: int,
    prompts: int,
    group: int,
    parts: int,
    limit: int,
    exact: bool,
    env: str | None,
) -> None:
    """Print seconds of both trainers and what follows from them."""
    import torch

    from minirec.columns import N_TOKENS
    from minirec.pipelines.score.nodes import _pool
    from minirec.policy.loading import load_model, load_tokenizer, new_adapter

    tables, params = loaded(env, ("prompts", "items", "policy_model"))
    default = params.policy.dtype
    pool = _pool(tables["prompts"])
    near = (pool[N_TOKENS] - TOKENS).abs().argsort(kind="stable")
    pool = pool.iloc[near[: prompts * (1 + steps)]].sample(frac=1, random_state=0)
    settings = params.train_eval.train
    settings = settings.model_copy(
        update={
            "prompts_per_step": prompts,
            "grpo": settings.grpo.model_copy(
                update={"num_generations": group, "gradient_accumulation_steps": parts}
            ),
        }
    )
    sampling = params.policy.sampling.model_copy(update={"max_new_tokens": limit})
    tokenizer = load_tokenizer(tables["policy_model"])
    seconds: dict[str, dict[str, list[float]]] = {}
    found: Gradients = {}
    given: list[Any] = []
    start: dict[str, Any] = {}  # of the adapter
    for precision in dict.fromkeys(
        [*(dtype or (default, "float32")), *[EXACT] * exact]
    ):
        policy = params.policy.model_copy(
            update={"dtype": precision, "sampling": sampling}
        )
        own = params.model_copy(
            update={
                "policy": policy,
                "train_eval": params.train_eval.model_copy(update={"train": settings}),
            }
        )
        base = load_model(tables["policy_model"], precision, tokenizer, policy.prompt)
        no_token = base.config.get_text_config().vocab_size
        base.generation_config.eos_token_id = [no_token]
        lm = new_adapter(base, policy.lora, params.seed)
        for name, parameter in lm.named_parameters():
            if parameter.requires_grad:
                if (
                    name not in start
                ):  # B is 0 before training, and with it A's gradient
                    torch.nn.init.normal_(parameter, std=0.01)
                    start[name] = parameter.detach().clone()
                parameter.data.copy_(start[name])
        if precision == EXACT:
            lm = lm.double()
        inputs = (lm, tokenizer, pool, tables["items"], own)
        train(
            comparing(found, precision, given),
            *inputs[:2],
            pool.head(prompts),
            *inputs[3:],
        )
        if precision == EXACT:
            break
        times = seconds.setdefault(precision, {})
        for trainer in [*trainers(times, limit).values()] * repeats:
            train(trainer, *inputs)
    report(seconds, found, default, pool[N_TOKENS].mean())


def report(
    seconds: dict[str, dict[str, list[float]]],
    found: Gradients,
    default: str,
    tokens: float,
) -> None:
    """Print the table and the last line."""

    def apart(one: str, other: str) -> float:
        return float((found[one] - found[other]).norm() / found[other].norm())

    click.echo(f"Prompts of {tokens:.0f} tokens on average.\n")
    click.echo("| precision | TRL, s | ours, s | ratio |")
    click.echo("|:---|---:|---:|---:|")
    ratios = {}
    for precision, times in seconds.items():
        plain, ours = median(times["plain"]), median(times["ours"])
        ratios[precision] = round(plain / ours, 2)
        click.echo(f"| {precision} | {plain:.2f} | {ours:.2f} | {plain / ours:.2f} |")
    click.echo("\n| gradient | from TRL's | from float64's |")
    click.echo("|:---|---:|---:|")
    errors = {}
    for name in found:
        who, _, precision = name.partition(", ")
        if precision:
            theirs = apart(name, f"plain, {precision}") if who == "ours" else None
            errors[name] = apart(name, EXACT) if EXACT in found else None
            cells = ["" if x is None else f"{x:.1e}" for x in (theirs, errors[name])]
            click.echo(f"| {name} | {' | '.join(cells)} |")
    found_errors = {
        name: float(f"{error:.2g}") for name, error in errors.items() if error
    }
    last = {**ratios, "gradient_error": found_errors}
    if default in ratios:
        last = {"grpo_step": ratios[default], **last}
    click.echo(json.dumps(last))


if __name__ == "__main__":
    main()
