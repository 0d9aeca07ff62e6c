"""What training changes, as a folder: a LoRA adapter for peft, or a whole model."""

from __future__ import annotations

import glob
import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from kedro.io import AbstractVersionedDataset, DatasetError, Version

from minirec.datasets.atomic import local, replacing

if TYPE_CHECKING:
    import torch

# Names of configuration and tensors: peft's, and those of transformers.
OF_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
OF_MODEL = ("config.json", "model.safetensors")


class Adapter(TypedDict):
    """An adapter apart from its model, or all of a small model in its place."""

    config: dict[str, Any]
    """``LoraConfig.to_dict()``; of a model that of its own configuration."""
    tensors: dict[str, torch.Tensor]
    """``get_peft_model_state_dict(model)``; of a model its parameters."""
    files: NotRequired[dict[str, str]]
    """Of a model alone: names and texts of what lies beside, such as its tokenizer."""


class AdapterDataset(AbstractVersionedDataset[Adapter, Adapter]):
    """A LoRA adapter, in a folder for ``peft.PeftModel.from_pretrained``.

    A whole model (its configuration has a ``model_type``) lies in a folder for
    ``AutoModelForCausalLM`` and ``AutoTokenizer``. Saving replaces the folder as a
    whole.

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
        super().__init__(PurePosixPath(local(filepath)), version)
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
        config, tensors = OF_MODEL if (folder / OF_MODEL[0]).is_file() else OF_ADAPTER
        for name in (config, tensors):
            if not (folder / name).is_file():
                raise DatasetError(
                    f"{folder} holds no {name}: run the pipeline that makes the "
                    f"adapter."
                )
        loaded: Adapter = {
            "config": json.loads((folder / config).read_text("utf-8")),
            "tensors": load_file(folder / tensors),
        }
        if config in OF_MODEL:
            loaded["files"] = {
                path.name: path.read_text("utf-8")
                for path in sorted(folder.glob("*.json"))
                if path.name != config
            }
        return loaded

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
        config, tensors = OF_MODEL if "model_type" in data["config"] else OF_ADAPTER
        texts = {
            config: json.dumps(
                data["config"], indent=2, sort_keys=True, default=sorted
            ),
            **data.get("files", {}),
        }
        values = {
            name: tensor.detach().cpu().contiguous()
            for name, tensor in data["tensors"].items()
        }
        with replacing(path) as folder:
            folder.mkdir()
            for name, text in texts.items():
                (folder / name).write_text(text, "utf-8")
            save_file(values, folder / tensors, metadata={"format": "pt"})

    def _exists(self) -> bool:
        folder = Path(self._get_load_path())
        return any(
            all((folder / name).is_file() for name in names)
            for names in (OF_ADAPTER, OF_MODEL)
        )

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "version": self._version}
