"""The ``item_tokens`` policy: a small causal LM with one token an item."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import numpy as np
import pandas as pd

from minirec import costs
from minirec.columns import HISTORY_ITEM_ID, ITEM_ID, N_TOKENS, PROMPT
from minirec.errors import InputError
from minirec.policy.flops import forward_flops
from minirec.ranking.grounding import target_rank

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from minirec.policy.params import ItemTokenParams, PolicyParams
    from minirec.policy.rewards import Tasks
    from minirec.types import Adapter

# the files beside configuration and weights, see `minirec.datasets.adapter`
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"

# begins every history; no item's token has such signs
BEGIN = "<s>"

SETTINGS = {"bos_token": BEGIN, "pad_token": BEGIN, "padding_side": "left"}

# what configuration and parameters both say, by transformers' names
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)

# prompts that are ranked, or whose hidden states are read, at once
AT_ONCE = 256
# scores of items that answers are ranked by at once: 16 MiB in float32
_SCORES_AT_ONCE = 2**22

_ANEW = "run `kedro run --pipelines score` with the present parameters and items"


@dataclass(frozen=True)
class ItemPolicy:
    """A causal LM over M items, its tokenizer, and how it samples.

    Token i is item i of the catalogue, and token M begins a history.
    """

    lm: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    slate_size: int
    """K, how many items an answer has."""
    temperature: float
    """Of the sampling."""

    @property
    def n_items(self) -> int:
        """M."""
        return self.lm.config.vocab_size - 1

    @property
    def items(self) -> pd.DataFrame:
        """The ``item_id`` of every token but the last, in their order."""
        tokens = self.tokenizer.convert_ids_to_tokens(list(range(self.n_items)))
        return pd.DataFrame({ITEM_ID: [unquote(token) for token in tokens]})

    def ground(self, slates: np.ndarray) -> np.ndarray:
        """Return scores (N, M) for N answers (N, K): K for the first item, 1 for the last.

        Items that were not written score 0.
        """
        n, size = slates.shape
        scores = np.zeros((n, self.n_items), np.float32)
        np.put_along_axis(scores, slates, np.arange(size, 0.0, -1.0)[None], axis=1)
        return scores

    def recommend(self, prompts: Sequence[str]) -> tuple[np.ndarray, None]:
        """Rank the catalogue for N users by the distribution of the next item.

        Returns
        -------
        scores
            (N, M) log-probabilities, higher is better. Items already seen are not
            masked: who ranks does that.
        completions
            None: it writes nothing.
        """
        import torch

        with torch.inference_mode():
            hidden = last_hidden(self.lm, self.read(prompts))
            return self.logits(hidden).log_softmax(-1).cpu().numpy(), None

    def read(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of N prompts."""
        return self.tokenizer(list(prompts), add_special_tokens=False)["input_ids"]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of the M items (N, M) at hidden states (N, d)."""
        weight = self.lm.get_output_embeddings().weight[: self.n_items]
        logits = hidden @ weight.T
        products = 1
        if logits.requires_grad:  # and back to what asks for a gradient
            products += hidden.requires_grad + weight.requires_grad
        costs.add(flops=2.0 * weight.numel() * len(hidden) * products)
        return logits

    def log_probs(self, hidden: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities (N, M) of the next item at hidden states (N, d).

        Those of the items ``seen`` (N, M) are -inf; the others have the temperature of
        the sampling.
        """
        logits = self.logits(hidden).masked_fill(seen, float("-inf"))
        return (logits / self.temperature).log_softmax(-1)


def new_policy(
    items: pd.DataFrame,
    params: ItemTokenParams,
    dtype: str,
    window: int,
    seed: int,
) -> ItemPolicy:
    """Return a policy with random weights, for windows of so many items."""
    lm = new_model(len(items), params, dtype, window, seed)
    tokenizer = new_tokenizer(items[ITEM_ID].tolist())
    return ItemPolicy(lm, tokenizer, params.slate_size, temperature=1.0)


def new_model(
    n_items: int, params: ItemTokenParams, dtype: str, window: int, seed: int
) -> LlamaForCausalLM:
    """Return a small Llama with random weights, for M items and windows of so many.

    Embeddings are tied: an item is the same vector as it is read and as it is chosen.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=n_items + 1,
        **{name: getattr(params, name) for name in SIZES},
        max_position_embeddings=window + 1,
        tie_word_embeddings=True,
        bos_token_id=n_items,
        pad_token_id=None,  # it would keep the same token from being learned
        eos_token_id=None,
        architectures=["LlamaForCausalLM"],
    )
    torch.manual_seed(seed)
    return _placed(LlamaForCausalLM(config), dtype)


def new_tokenizer(item_ids: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return the tokenizer whose token i is item i, written as in an address.

    An id of letters, digits and ``-._~`` is its own token; of any other the characters
    are written as ``%20``, so that no token has a blank.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    vocabulary = {token: row for row, token in enumerate(item_tokens(item_ids))}
    vocabulary[BEGIN] = len(vocabulary)
    words = Tokenizer(WordLevel(vocabulary))
    words.pre_tokenizer = WhitespaceSplit()
    return _fast(words)


def item_tokens(item_ids: Sequence[str]) -> list[str]:
    """Return each item's token.

    Examples
    --------
    >>> item_tokens(["242", "B00005N7P0", "a b"])
    ['242', 'B00005N7P0', 'a%20b']
    """
    return [quote(item_id, safe="") for item_id in item_ids]


def render_prompts(pool: pd.DataFrame) -> pd.DataFrame:
    """Write each sample's history as the tokens of its items, the oldest first.

    Parameters
    ----------
    pool
        Samples with ``history_item_id``.

    Returns
    -------
    DataFrame
        The pool with ``prompt`` and ``n_tokens``.
    """
    texts = [" ".join([BEGIN, *item_tokens(ids)]) for ids in pool[HISTORY_ITEM_ID]]
    n_tokens = pool[HISTORY_ITEM_ID].map(len) + 1
    prompts = pool.copy()
    prompts[PROMPT], prompts[N_TOKENS] = texts, n_tokens.astype("int64")
    return prompts


def get_weights(lm: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Adapter:
    """Return a copy of the whole policy, in the place of an adapter.

    Saved, it is a folder for ``AutoModelForCausalLM`` and ``AutoTokenizer``.
    """
    return {
        "config": lm.config.to_dict(),
        "tensors": {
            name: parameter.detach().cpu().clone()
            for name, parameter in lm.named_parameters()  # tied ones once
        },
        "files": {
            TOKENIZER: tokenizer.backend_tokenizer.to_str(),
            TOKENIZER_CONFIG: json.dumps(
                {"tokenizer_class": "PreTrainedTokenizerFast", **SETTINGS}
            ),
        },
    }


def load_policy(
    weights: Adapter, params: PolicyParams, items: pd.DataFrame | None = None
) -> ItemPolicy:
    """Return the policy with its weights, in evaluation mode, on a GPU if there is one.

    Raises
    ------
    InputError
        If the weights are a LoRA adapter, those of another size, or those of another
        catalogue than ``items``, where these are given.
    """
    check_weights(weights, params, items)
    group = _group(params)
    policy = ItemPolicy(
        *_opened(weights, params.dtype), group.slate_size, params.sampling.temperature
    )
    set_weights(policy, weights)
    return policy


def sample_embeddings(weights: Adapter, prompts: Sequence[str]) -> np.ndarray:
    """Return the policy's last hidden state (N, d) behind N prompts, of unit length.

    Raises
    ------
    InputError
        If the weights are not those of a policy of item tokens.
    """
    import torch

    check_kind(weights)
    policy = ItemPolicy(*_opened(weights, "float32"), slate_size=1, temperature=1.0)
    set_weights(policy, weights)
    tokens = policy.read(prompts)
    with torch.inference_mode():
        parts = [
            last_hidden(policy.lm, tokens[start : start + AT_ONCE])
            for start in range(0, len(tokens), AT_ONCE)
        ]
        return torch.nn.functional.normalize(torch.cat(parts)).cpu().numpy()


def set_weights(policy: ItemPolicy, weights: Adapter) -> None:
    """Replace the values of the policy's weights.

    Raises
    ------
    InputError
        If they are those of a policy of another size.
    """
    import torch

    own = dict(policy.lm.named_parameters())
    given = weights["tensors"]
    shapes = [{name: t.shape for name, t in each.items()} for each in (own, given)]
    if shapes[0] != shapes[1]:
        wrong = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))[0][0]
        raise InputError(
            f"the policy's tensors are not those of its configuration (first at "
            f"{wrong}): {_ANEW}"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(given[name])


def check_kind(weights: Adapter) -> None:
    """Refuse an adapter of another kind of policy.

    Raises
    ------
    InputError
        If so.
    """
    if weights["config"].get("model_type") != "llama" or "files" not in weights:
        raise InputError(
            "policy.kind is item_tokens, and the saved policy is an adapter of another "
            f"kind of policy: {_ANEW}"
        )


def check_weights(
    weights: Adapter, params: PolicyParams, items: pd.DataFrame | None = None
) -> None:
    """Refuse what `load_policy` cannot load.

    Raises
    ------
    InputError
        As `load_policy`.
    """
    check_kind(weights)
    group = _group(params)
    for name in SIZES:
        given, wanted = weights["config"][name], getattr(group, name)
        if given != wanted:
            raise InputError(
                f"policy.item_tokens.{name} is {wanted}, and the saved policy has "
                f"{given}: {_ANEW}"
            )
    if items is None:
        return
    vocabulary = json.loads(weights["files"][TOKENIZER])["model"]["vocab"]
    rows = dict(
        zip(item_tokens(items[ITEM_ID].tolist()), range(len(items)), strict=True)
    )
    if vocabulary != rows | {BEGIN: len(rows)}:
        raise InputError(
            "the saved policy was made for another catalogue than the present items: "
            f"{_ANEW}"
        )


def last_hidden(lm: LlamaForCausalLM, ids: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the last hidden state (N, d) behind N lists of tokens.

    The same as that of ``lm.model``, but in the last block, whose other outputs nobody
    asks for, only the last token of each row attends.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    # padded on the right, so that causal attention alone is enough
    n, width = len(ids), max(map(len, ids))
    filled = np.full((n, width), lm.config.bos_token_id, np.int64)
    for row, own in enumerate(ids):
        filled[row, : len(own)] = own
    device = lm.device
    last = torch.tensor([len(own) - 1 for own in ids], device=device)
    model: Any = lm.model
    x = model.embed_tokens(torch.from_numpy(filled).to(device))
    positions = torch.arange(width, device=device)
    angles = model.rotary_emb(x, positions[None])
    *blocks, block = model.layers
    flops, n_tokens = hidden_flops(lm, n, width), sum(map(len, ids))
    if x.requires_grad:
        costs.add(tokens_trained=n_tokens, flops=3 * flops)
    else:
        costs.add(tokens_read=n_tokens, flops=flops)
    for each in blocks:
        x = each(x, position_embeddings=angles, position_ids=positions[None])

    def at_last(values: torch.Tensor) -> torch.Tensor:
        return values[torch.arange(n, device=device), last][:, None]

    attention, normed = block.self_attn, block.input_layernorm(x)

    def heads(projected: torch.Tensor) -> torch.Tensor:
        return projected.view(n, -1, lm.config.num_attention_heads, attention.head_dim)

    query = heads(attention.q_proj(at_last(normed))).transpose(1, 2)
    key = heads(attention.k_proj(normed)).transpose(1, 2)
    value = heads(attention.v_proj(normed)).transpose(1, 2)
    key, _ = apply_rotary_pos_emb(key, key, *angles)
    of_last = [each[0, last][:, None] for each in angles]
    query, _ = apply_rotary_pos_emb(query, query, *of_last)
    whole = positions <= last[:, None]
    mixed = scaled_dot_product_attention(query, key, value, whole[:, None, None])
    x = at_last(x) + attention.o_proj(mixed.transpose(1, 2).reshape(n, 1, -1))
    x = x + block.mlp(block.post_attention_layernorm(x))
    return model.norm(x)[:, 0]


def hidden_flops(lm: LlamaForCausalLM, n: int, width: int, first: int = 0) -> float:
    """Return the operations of `last_hidden` for n rows, in the blocks from one on.

    Backward they are twice as many where all weights are trained.
    """
    *blocks, last = lm.model.layers
    attention: Any = last.self_attn
    whole = forward_flops(lm, n * width, n * width**2, blocks=blocks[first:])
    # keys and values of all tokens; of a row's last token the rest, too
    kept = attention.k_proj.weight.numel() + attention.v_proj.weight.numel()
    return (
        whole
        + forward_flops(lm, n, n * width, blocks=[last])
        + 2 * kept * n * (width - 1)
    )


def seen_mask(tasks: Tasks, sample_ids: np.ndarray, n_items: int) -> torch.Tensor:
    """Return (N, M) which items the samples' users had seen, their targets aside."""
    import torch

    blank = np.zeros((len(sample_ids), n_items), np.float32)
    masked, _ = tasks.masked(sample_ids, blank)
    return torch.from_numpy(np.isneginf(masked))


def sample_slates(
    log_probs: torch.Tensor,
    size: int,
    seeds: Sequence[Sequence[int]],
    rollouts: range,
) -> torch.Tensor:
    """Draw slates of K different items, one item after the other.

    Each item is drawn from the distribution of the next one, without those that the
    slate has already (Plackett and Luce's model of rankings): one reading of the
    history serves all items of all slates.

    Parameters
    ----------
    log_probs
        (N, M) of the next item; -inf where it must not be drawn.
    size
        K.
    seeds
        Of each row; the r-th slate of a row is the same whichever others are drawn.
    rollouts
        Numbers of the G slates to draw for each row.

    Returns
    -------
    Tensor
        (N, G, K) of item numbers, in the order of drawing.

    Raises
    ------
    InputError
        If a user has seen all items but fewer than K, or a probability is NaN.
    """
    import torch

    if bool(log_probs.isnan().any()):
        raise InputError(
            "the policy of item tokens gives probabilities that are no numbers: its "
            "training has diverged; lower grpo.learning_rate or "
            "policy.item_tokens.pretraining.learning_rate"
        )
    if int(torch.isfinite(log_probs).sum(-1).min()) < size:
        raise InputError(
            f"policy.item_tokens.slate_size is {size}, and a user has fewer items left "
            "that are new: lower it"
        )
    noise = np.stack(
        [np.random.default_rng(own).random((rollouts.stop, size)) for own in seeds]
    )[:, rollouts.start :: rollouts.step]
    uniform = torch.from_numpy(noise)
    # In float64 on the processor, so that what is drawn depends on no batch's rounding
    # but that of the model.
    p = log_probs.detach().cpu().double().exp()
    ends = p.cumsum(-1)
    ends = ends / ends[:, -1:]
    starts = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1]], 1)
    rows = torch.arange(len(p))[:, None]
    slates = torch.empty(uniform.shape, dtype=torch.long)
    for place in range(size):
        # what is drawn already is cut out of [0, 1], and the rest drawn from
        taken = slates[:, :, :place].sort(-1)[0]
        begin, end = starts[rows[..., None], taken], ends[rows[..., None], taken]
        u = uniform[:, :, place] * (1 - (end - begin).sum(-1))
        for i in range(place):
            beyond = u >= begin[..., i]
            u = torch.where(beyond, end[..., i] + (u - begin[..., i]), u)
        drawn = torch.searchsorted(ends, u.contiguous(), right=True)
        # rounding may lead to the end of the last interval
        slates[:, :, place] = drawn.clamp(max=p.shape[1] - 1)
    costs.add(tokens_generated=slates.numel())
    return slates


def slate_log_probs(log_probs: torch.Tensor, slates: torch.Tensor) -> torch.Tensor:
    """Return the log-probability (N, G) of slates as `sample_slates` draws them.

    Parameters
    ----------
    log_probs
        (N, M) of the next item.
    slates
        (N, G, K).

    Examples
    --------
    >>> import torch
    >>> p = torch.tensor([[0.5, 0.25, 0.25]])
    >>> slate_log_probs(p.log(), torch.tensor([[[0, 1]]])).exp()  # 1/2 x 1/4 : 1/2
    tensor([[0.2500]])
    """
    import torch

    n, group, size = slates.shape
    own = log_probs.gather(1, slates.reshape(n, -1)).view(n, group, size)
    if size == 1:
        return own[..., 0]
    # what is left of all probability before each place
    before = own[..., :-1].exp().cumsum(-1)
    left = torch.log1p(-before.clamp(max=1 - torch.finfo(before.dtype).eps))
    return own.sum(-1) - left.sum(-1)


def reward_slates(
    policy: ItemPolicy,
    tasks: Tasks,
    reward: Callable[..., np.ndarray],
    sample_ids: np.ndarray,
    slates: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank and reward G answers (N, G, K) to each of N prompts.

    Equal answers to a prompt are judged once.

    Returns
    -------
    rank, reward
        (N, G) each.

    Raises
    ------
    InputError
        As `minirec.policy.rewards.checked`.
    """
    from minirec.policy.rewards import checked

    n, group, size = slates.shape
    flat = slates.reshape(n * group, size)
    place = np.arange(n).repeat(group)
    for column in flat.T:
        key = place * policy.n_items + column
        _, first, place = np.unique(key, return_index=True, return_inverse=True)
    ids = np.asarray(sample_ids)[first // group]
    rank, earned = np.empty(len(ids), np.int64), np.empty(len(ids))
    block = max(1, _SCORES_AT_ONCE // policy.n_items)
    for start in range(0, len(ids), block):
        own = slice(start, start + block)
        scores, targets = tasks.masked(ids[own], policy.ground(flat[first[own]]))
        rank[own] = target_rank(scores, targets)
        earned[own] = checked(reward, rank[own], scores, targets, ids[own])
    return rank[place].reshape(n, group), earned[place].reshape(n, group)


def _group(params: PolicyParams) -> ItemTokenParams:
    assert params.item_tokens is not None  # `PolicyParams` refuses the kind without
    return params.item_tokens


def _opened(
    weights: Adapter, dtype: str
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Return the model, with random weights, and the tokenizer of a saved policy."""
    from tokenizers import Tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    lm = LlamaForCausalLM(LlamaConfig.from_dict(weights["config"]))
    return _placed(lm, dtype), _fast(Tokenizer.from_str(weights["files"][TOKENIZER]))


def _fast(words: Tokenizer) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=words, **SETTINGS)


def _placed(lm: Any, dtype: str) -> LlamaForCausalLM:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return lm.to(device, getattr(torch, dtype)).eval()
