"""A LoRA adapter as the folder that peft reads."""

from __future__ import annotations

import glob
import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypedDict

from kedro.io import AbstractVersionedDataset, DatasetError, Version

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


class AdapterDataset(AbstractVersionedDataset[Adapter, Adapter]):
    """A LoRA adapter, in a folder for ``peft.PeftModel.from_pretrained``.

    Saving replaces the folder as a whole.

    Parameters
    ----------
    filepath : str
        The folder.
    version : Version, optional
        Set by Kedro where the entry is ``versioned``.
    metadata : dict, optional
        For plugins.
    """

    def __init__(
        self,
        *,
        filepath: str,
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(PurePosixPath(filepath), version)
        self.metadata = metadata

    def load(self) -> Adapter:
        """Return the adapter, its tensors on the CPU.

        Raises
        ------
        DatasetError
            If one of its two files is missing.
        """
        from safetensors.torch import load_file

        folder = Path(self._get_load_path())
        for name in (CONFIG, TENSORS):
            if not (folder / name).is_file():
                raise DatasetError(
                    f"{folder} holds no {name}: run the pipeline that makes the "
                    f"adapter."
                )
        return {
            "config": json.loads((folder / CONFIG).read_text("utf-8")),
            "tensors": load_file(folder / TENSORS),
        }

    def save(self, data: Adapter) -> None:
        """Write the adapter, replacing the folder.

        Raises
        ------
        DatasetError
            If versions of the adapter lie in the folder.
        """
        from safetensors.torch import save_file

        path = Path(self._get_save_path())
        if any(path.glob(f"*/{glob.escape(path.name)}")):
            raise DatasetError(
                f"{path} holds versions of the adapter, which saving would delete: "
                f"set `versioned: true` or another `filepath` in the catalog."
            )
        config = json.dumps(data["config"], indent=2, sort_keys=True, default=sorted)
        tensors = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in data["tensors"].items()
        }
        with replacing(path) as folder:
            folder.mkdir()
            (folder / CONFIG).write_text(config, "utf-8")
            save_file(tensors, folder / TENSORS, metadata={"format": "pt"})

    def _exists(self) -> bool:
        folder = Path(self._get_load_path())
        return all((folder / name).is_file() for name in (CONFIG, TENSORS))

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "version": self._version}
