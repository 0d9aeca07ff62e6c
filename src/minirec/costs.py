"""What models cost: tokens, and the operations of their matrix products.

The places where a model works add to whoever counts; the hook of `minirec.hooks`
counts for each node, and so can anybody:

>>> with counting() as costs:
...     add(tokens_read=100, flops=2e9)
...     add(tokens_generated=6, flops=1e8)
>>> costs
Costs(tokens_generated=6, tokens_trained=0, tokens_read=100, flops=2100000000.0)

Counted is what was done while somebody counted, in this process or in one that handed
its counts back (``add(**asdict(theirs))``). Batches that an earlier run had finished
cost a later one nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Costs:
    """What models did."""

    tokens_generated: int = 0
    """Written, those that end an answer included."""
    tokens_trained: int = 0
    """That a step of training read and differentiated: of a packed row each column
    once, as often as the row was trained on."""
    tokens_read: int = 0
    """Read besides: prompts that are answered, rollouts whose gradients are collected,
    texts of the encoder; what prompts begin with once where it is read once."""
    flops: float = 0.0
    """Of matrix products, 2mnk each, padding included; NaN if nobody knows, as of what
    a server did."""


# Whoever counts in this thread: nodes that run in threads are told apart.
_counting: ContextVar[tuple[Costs, ...]] = ContextVar("counting", default=())


def add(
    *,
    tokens_generated: int = 0,
    tokens_trained: int = 0,
    tokens_read: int = 0,
    flops: float = 0.0,
) -> None:
    """Count what a model did, for everybody who counts in this thread."""
    for costs in _counting.get():
        costs.tokens_generated += tokens_generated
        costs.tokens_trained += tokens_trained
        costs.tokens_read += tokens_read
        costs.flops += flops


@contextmanager
def counting() -> Iterator[Costs]:
    """Count what models do in this thread while the context lasts."""
    costs = Costs()
    _counting.set((*_counting.get(), costs))
    try:
        yield costs
    finally:
        _counting.set(tuple(c for c in _counting.get() if c is not costs))
