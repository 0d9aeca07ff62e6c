"""A LoRA adapter as the folder that peft reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from kedro.io import AbstractDataset, DatasetError

from minirec.datasets.atomic import replacing

if TYPE_CHECKING:
    import torch

# Both names are peft's.
CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"


class Adapter(TypedDict):
    """An adapter apart from its model."""

    config: dict[str, Any]
    """``LoraConfig.to_dict()``."""
    tensors: dict[str, torch.Tensor]
    """``get_peft_model_state_dict(model)``."""


class AdapterDataset(AbstractDataset[Adapter, Adapter]):
    """A LoRA adapter, in a folder for ``peft.PeftModel.from_pretrained``.

    Saving replaces the folder as a whole.

    Parameters
    ----------
    filepath : str
        The folder.
    metadata : dict, optional
        For plugins.
    """

    def __init__(
        self, *, filepath: str, metadata: dict[str, Any] | None = None
    ) -> None:
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> Adapter:
        """Return the adapter, its tensors on the CPU.

        Raises
        ------
        DatasetError
            If one of its two files is missing.
        """
        from safetensors.torch import load_file

        for name in (CONFIG, TENSORS):
            if not (self._filepath / name).is_file():
                raise DatasetError(
                    f"{self._filepath} holds no {name}: run the pipeline that makes "
                    f"the adapter."
                )
        return {
            "config": json.loads((self._filepath / CONFIG).read_text("utf-8")),
            "tensors": load_file(self._filepath / TENSORS),
        }

    def save(self, data: Adapter) -> None:
        """Write the adapter, replacing the folder."""
        from safetensors.torch import save_file

        config = json.dumps(data["config"], indent=2, sort_keys=True, default=sorted)
        tensors = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in data["tensors"].items()
        }
        with replacing(self._filepath) as folder:
            folder.mkdir()
            (folder / CONFIG).write_text(config, "utf-8")
            save_file(tensors, folder / TENSORS, metadata={"format": "pt"})

    def _exists(self) -> bool:
        return all((self._filepath / name).is_file() for name in (CONFIG, TENSORS))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
