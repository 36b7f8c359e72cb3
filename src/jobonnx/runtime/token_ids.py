"""Rows of token ids from anywhere to arrays that a graph may see, or an error that names the row and the id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral

from jobonnx.arrays import Ints
from jobonnx.bundle.manifest import Model
from jobonnx.errors import JobonnxError
from jobonnx.text.batching import pad


class TokenIdError(JobonnxError, ValueError):
    """A row of token ids that the model cannot take: a caller's, or that of a tokenizer which is another model's."""


def check_integers(rows: Iterable[Iterable[object]]) -> None:
    """Raise TypeError unless every token id is an integer: numpy would make 0 of 0.5 and 1 of True."""
    for i, row in enumerate(rows):
        for token in row:
            if isinstance(token, bool) or not isinstance(token, Integral):
                raise TypeError(f"row {i} holds {token!r}, which is no token id; take ids from the tokenizer")


def pad_checked(rows: Sequence[Sequence[int]], model: Model) -> tuple[Ints, Ints]:
    """`pad` rows that the model can take.

    A graph on a CPU would count a negative id from the table's end, and one on a GPU would make zeros of an id past it.

    Raises:
        TokenIdError: a row is empty, longer than the model takes, or holds an id that the model does not have.
    """
    lengths = list(map(len, rows))
    if lengths and not (min(lengths) > 0 and max(lengths) <= model.max_tokens):
        i = next(i for i, length in enumerate(lengths) if not 0 < length <= model.max_tokens)
        raise TokenIdError(f"row {i} has {lengths[i]} token ids; it has to be 1 to {model.max_tokens}")
    try:
        ids, mask = pad(rows, model.pad_id)
    except OverflowError:  # beyond int64
        raise _unknown_id(rows, model.vocabulary) from None
    if ids.size and not (ids.min() >= 0 and ids.max() < model.vocabulary):
        raise _unknown_id(rows, model.vocabulary)
    return ids, mask


def _unknown_id(rows: Sequence[Sequence[int]], vocabulary: int) -> TokenIdError:
    i, token = next((i, token) for i, row in enumerate(rows) for token in row if not 0 <= int(token) < vocabulary)
    fix = "take ids from the bundle's tokenizer, or export the bundle again if they are"
    return TokenIdError(f"row {i} holds token id {token}, which the model does not have; {fix}")
