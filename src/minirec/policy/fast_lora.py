"""The forward pass of peft's LoRA layers, with fewer copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from minirec.errors import InputError

if TYPE_CHECKING:
    import torch
    from peft import PeftMixedModel, PeftModel
    from peft.tuners.lora import Linear
    from transformers import PreTrainedModel


@contextmanager
def fast_lora(policy: PeftModel | PeftMixedModel | PreTrainedModel) -> Iterator[None]:
    """Let the LoRA layers of linear maps add their low-rank term in one product.

    peft casts the input of each layer to the adapter's dtype (float32), scales and
    adds the low-rank term there, and casts the sum back: four copies of tensors as
    large as the layer's output, about a third of a forward pass on a CPU. Within this
    context the adapter is cast instead, and scaled and added by one `torch.addmm`:
    the same up to rounding to the layer's own dtype. Gradients flow as before, the
    adapter's in its own dtype; dropout, `disable_adapter` and merging keep working.
    While the context lasts the adapter must not change.

    Layers that the adapter puts on anything but a linear map stay peft's own.

    Raises
    ------
    InputError
        If a layer's adapter is not plain LoRA (such as DoRA, or one with a bias), or
        more than one adapter is active.

    Examples
    --------
    ``with fast_lora(policy): completions = sample_completions(policy, ...)``
    """
    from peft.tuners.lora import Linear

    layers = [m for m in policy.modules() if type(m) is Linear]
    for layer in layers:
        _check_plain(layer)
    with replaced({layer: _forward(layer, layer.forward) for layer in layers}):
        yield


@contextmanager
def replaced(forwards: Mapping[torch.nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let modules compute something else while the context lasts."""
    known = {module: vars(module).get("forward") for module in forwards}
    for module, forward in forwards.items():
        vars(module)["forward"] = forward
    try:
        yield
    finally:
        for module, own in known.items():
            del vars(module)["forward"]  # the class' own again
            if own is not None:
                vars(module)["forward"] = own


def _check_plain(layer: Linear) -> None:
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(active) != 1 or layer.lora_variant or any(layer.lora_bias.values()):
        raise InputError(
            "the adapter is not plain LoRA: make it with peft's LoraConfig without "
            "use_dora, lora_bias or another variant, and let one adapter be active"
        )


def _forward(
    layer: Linear, peft_forward: Callable[..., torch.Tensor]
) -> Callable[..., torch.Tensor]:
    import torch

    (name,) = (name for name in layer.active_adapters if name in layer.lora_A)
    down: Any = layer.lora_A[name].weight
    up: Any = layer.lora_B[name].weight
    dropout: Any = layer.lora_dropout[name]
    scaling = layer.scaling[name]
    cast: dict[torch.dtype, tuple[torch.Tensor, torch.Tensor]] = {}

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if layer.disable_adapters or layer.merged:
            return peft_forward(x, *args, **kwargs)
        base = layer.base_layer(x, *args, **kwargs)
        flat = base.view(-1, base.shape[-1])
        if torch.is_grad_enabled():
            low_rank = (dropout(x) @ down.to(x.dtype).T).flatten(0, -2)
            out = flat.addmm(low_rank, up.to(base.dtype).T, alpha=scaling)
            return out.view_as(base)
        if x.dtype not in cast:
            cast[x.dtype] = down.to(x.dtype).T, up.to(x.dtype).T
        a, b = cast[x.dtype]
        # in place: nothing else holds what the base layer returned
        flat.addmm_((dropout(x) @ a).flatten(0, -2), b, alpha=scaling)
        return base

    return forward
