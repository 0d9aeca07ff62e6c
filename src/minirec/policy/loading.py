"""Load the tokenizer and the causal LM, and put an adapter on it."""

from __future__ import annotations

import ctypes
import inspect
import platform
import warnings
from typing import TYPE_CHECKING, Any

from minirec.errors import InputError, loading
from minirec.types import Adapter, Model

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from minirec.policy.params import LoraParams, PromptParams

_UNFIT = (
    "the adapter does not fit policy_model ({}): it was made for another model or "
    "another policy.lora; run `kedro run --pipelines score`"
)

# glibc's malloc.h: from which size on memory is mapped for a block alone, and how much
# free memory at the end of the heap is given back
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1
_LARGEST = 2**30


def load_tokenizer(model: Model) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer, which pads prompts on the left.

    Parameters
    ----------
    model
        Keyword arguments of ``from_pretrained``, as the catalog's ``policy_model``
        gives them.

    Raises
    ------
    InputError
        If the tokenizer cannot be had, or has no chat template or no end token.
    """
    from transformers import AutoTokenizer

    with loading("policy_model", model):
        tokenizer = AutoTokenizer.from_pretrained(
            **model, padding_side="left", trust_remote_code=False
        )
    name = model["pretrained_model_name_or_path"]
    if tokenizer.chat_template is None:
        raise InputError(
            f"policy_model {name} has no chat template: name an instruction-tuned "
            "model in conf/local/globals.yml or by --params policy_model=..."
        )
    if tokenizer.eos_token is None:
        raise InputError(
            f"policy_model {name} has no end token (eos_token): add one to its "
            "tokenizer_config.json, or name another model"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    model: Model, dtype: str, tokenizer: PreTrainedTokenizerBase, prompt: PromptParams
) -> PreTrainedModel:
    """Return the causal LM in evaluation mode, on a GPU where there is one.

    Its ``generation_config.eos_token_id`` holds every token that ends an answer
    (`end_tokens`), so that probing, training and evaluation stop at the same ones.

    Raises
    ------
    InputError
        If the model cannot be had, or is no transformer whose every layer attends by
        mask and position, which packed rows need.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # loading takes a second; long steps have their own
    _ignore_old_names()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with loading("policy_model", model):
        lm = AutoModelForCausalLM.from_pretrained(
            **model,
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
            use_safetensors=True,
        )
    _check_architecture(lm)
    lm.generation_config.eos_token_id = end_tokens(model, tokenizer, prompt)
    lm.generation_config.pad_token_id = tokenizer.pad_token_id
    lm.eval()
    # The logits of the last token alone are asked of a slice, and a product of a slice
    # with a frozen matrix first copies the matrix for each row: 2 GB for 32 rows of a
    # vocabulary of 49,152, and more time than all layers.
    lm.get_output_embeddings().register_forward_pre_hook(
        lambda _, inputs: (inputs[0].contiguous(),)
    )
    _keep_freed_memory()
    return lm.to(device)  # type: ignore[arg-type]  # the stub takes no device name


def outline(model: Model, dtype: str) -> PreTrainedModel:
    """Return the causal LM without its weights: shapes alone, in a moment.

    Raises
    ------
    InputError
        As `load_model`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    _ignore_old_names()
    with loading("policy_model", model), torch.device("meta"):
        config = AutoConfig.from_pretrained(**model, trust_remote_code=False)
        lm = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype), trust_remote_code=False
        )
    _check_architecture(lm)
    return lm


def _ignore_old_names() -> None:
    # peft asks transformers by an old name; nothing that a user could change
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*deprecated")


def _keep_freed_memory() -> None:
    """Let this process use large blocks again that it has freed.

    By default glibc gives each block of more than 32 MiB back to the system, which
    clears every page of the next one: for the logits of a batch, that takes longer
    than computing them. Nothing is done under another C library.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST)


def _check_architecture(lm: PreTrainedModel) -> None:
    """Refuse what packed rows and rollouts would get wrong.

    That is recurrent layers, no own positions, or an attention of its own, which
    rollouts cannot exchange.
    """
    known = {"full_attention", "sliding_attention"}  # for windows: `check_window`
    layers = getattr(lm.config.get_text_config(), "layer_types", None) or known
    takes = inspect.signature(lm.forward).parameters
    needed = {"attention_mask", "position_ids", "past_key_values", "logits_to_keep"}
    fits = set(layers) <= known and needed <= takes.keys()
    if not fits or not lm._supports_attention_backend:
        raise InputError(
            f"policy_model is a {type(lm).__name__}, which does not attend by mask and "
            "position in every layer: name a causal transformer, such as Llama, Qwen, "
            "Gemma or SmolLM"
        )


def transformer_blocks(lm: PreTrainedModel | PeftModel) -> list[torch.nn.Module]:
    """Return the model's transformer blocks in their order.

    Raises
    ------
    InputError
        If the model has no list of as many modules as its configuration says.
    """
    import torch

    size = lm.config.get_text_config().num_hidden_layers
    for module in lm.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == size:
            return list(module)
    raise InputError(
        f"policy_model is a {type(lm).__name__} without a list of {size} blocks, whose "
        "gradients cannot be told apart: name another model, such as Llama or Qwen"
    )


def check_window(lm: PreTrainedModel | PeftModel, length: int) -> None:
    """Refuse rows longer than what a layer of the model looks back on.

    Raises
    ------
    InputError
        Naming both lengths.
    """
    config = lm.config.get_text_config()
    layers = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    slides = layers is None or "sliding_attention" in layers
    if window is not None and slides and length > window:
        raise InputError(
            f"a row of {length} tokens is longer than the {window} that policy_model "
            "attends to at a time: lower preprocess.window or "
            "policy.sampling.max_new_tokens, or name another model"
        )


def end_tokens(
    model: Model, tokenizer: PreTrainedTokenizerBase, prompt: PromptParams
) -> list[int]:
    """Return, ascending, the ids of the tokens after which an answer is over.

    These are the end token, those that the model's generation configuration has beside
    it, and all tokens whose text holds ``prompt.answer_end`` or a line break: a subword
    vocabulary has many, such as ``".`` and ``",``. Reasoning before the answer may hold
    such tokens, so that then the former alone end it.
    """
    ends = {tokenizer.eos_token_id, *_ends_of_its_own(model)}
    if not prompt.answer_mark:
        texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
        ends |= {
            token
            for token, text in enumerate(texts)
            if prompt.answer_end in text or "\n" in text
        }
    return sorted(ends)


def _ends_of_its_own(model: Model) -> list[int]:
    from transformers import AutoConfig, GenerationConfig

    given: dict[str, Any] = {**model}
    name = given.pop("pretrained_model_name_or_path")
    with loading("policy_model", model):
        try:
            config = GenerationConfig.from_pretrained(name, **given)
        except OSError:  # it has none: as transformers does then
            config = GenerationConfig.from_model_config(
                AutoConfig.from_pretrained(name, **given, trust_remote_code=False)
            )
    ends = config.eos_token_id
    if ends is None:
        return []
    return [ends] if isinstance(ends, int) else ends


def new_adapter(lm: PreTrainedModel, lora: LoraParams, seed: int) -> PeftModel:
    """Put a fresh LoRA adapter on the model; the policy still answers as before."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    try:
        return get_peft_model(
            lm, LoraConfig(task_type="CAUSAL_LM", **lora.model_dump())
        ).eval()
    except ValueError as error:
        raise InputError(f"policy.lora does not fit the model: {error}") from error


def attach_adapter(lm: PreTrainedModel, adapter: Adapter) -> PeftModel:
    """Put a saved adapter on the model.

    Raises
    ------
    InputError
        If the adapter was made for another model.
    """
    from peft import LoraConfig, get_peft_model

    try:
        policy = get_peft_model(lm, LoraConfig(**adapter["config"]))
    except ValueError as error:  # none of its layers is there
        first, *_ = str(error).splitlines()
        raise InputError(_UNFIT.format(first)) from error
    set_adapter(policy, adapter)
    return policy.eval()


def set_adapter(policy: PeftModel, adapter: Adapter) -> None:
    """Replace the values of the policy's adapter; of an outline, check that they fit.

    Raises
    ------
    InputError
        If the adapter was made for another model or is of another form.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    own = {n: t.shape for n, t in get_peft_model_state_dict(policy).items()}
    given = {n: t.shape for n, t in adapter["tensors"].items()}
    if own != given:
        wrong = sorted(set(own.items()) ^ set(given.items()))[0][0]
        raise InputError(_UNFIT.format(f"first at {wrong}"))
    if policy.device.type != "meta":
        set_peft_model_state_dict(policy, adapter["tensors"])


def get_adapter(policy: PeftModel) -> Adapter:
    """Return a copy of the policy's adapter: peft's configuration and its tensors."""
    from peft import get_peft_model_state_dict

    config = policy.peft_config["default"].to_dict()
    config = {
        name: sorted(value) if isinstance(value, set) else value
        for name, value in config.items()
    }
    tensors = {
        name: tensor.detach().cpu().clone().contiguous()
        for name, tensor in get_peft_model_state_dict(policy).items()
    }
    return {"config": config, "tensors": tensors}
