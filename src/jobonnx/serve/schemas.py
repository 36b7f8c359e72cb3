"""What the routes take, as msgspec reads it strictly, and what they give, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from jobonnx.serve.http import HttpError

Inputs = str | list[str | int | list[int]]
T = TypeVar("T")


class EmbeddingsRequest(msgspec.Struct, frozen=True):
    """OpenAI's."""

    input: Annotated[Inputs, Meta(description="A text, or a list of texts.")]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, description="Keep the first components, and bring them to unit length.")] | None = None
    user: str | None = None


class EmbedRequest(msgspec.Struct, frozen=True):
    """text-embeddings-inference's."""

    inputs: Annotated[Inputs, Meta(description="A text, or a list of texts.")]
    normalize: bool | None = True
    truncate: Annotated[bool, Meta(description="false refuses texts that are too long; they are cut otherwise.")] | None = None
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = None
    prompt_name: str | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None


class SimilarityInputs(msgspec.Struct, frozen=True):
    """One text, and others to compare it with."""

    source_sentence: str
    sentences: list[str]


class SimilarityParameters(msgspec.Struct, frozen=True):
    """As `EmbedRequest`'s."""

    truncate: bool | None = None
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = None
    prompt_name: str | None = None


class SimilarityRequest(msgspec.Struct, frozen=True):
    """text-embeddings-inference's."""

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None


class RootRequest(msgspec.Struct, frozen=True):
    """Of `POST /`: that of /embed, or that of /similarity, which the Hub's client sends here as well."""

    inputs: Inputs | SimilarityInputs
    normalize: bool | None = True
    truncate: bool | None = None
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = None
    prompt_name: str | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    parameters: SimilarityParameters | None = None


class TokenizeRequest(msgspec.Struct, frozen=True):
    """text-embeddings-inference's."""

    inputs: str | list[str]
    add_special_tokens: bool = True
    prompt_name: str | None = None


class MatchRequest(msgspec.Struct, frozen=True):
    """Titles to find others for."""

    titles: str | list[str]
    top_k: Annotated[int, Meta(ge=1, le=100)] = 10


class Usage(msgspec.Struct, frozen=True):
    """Tokens, special ones included."""

    prompt_tokens: int
    total_tokens: int


class Embedding(msgspec.Struct, frozen=True):
    """One vector: numbers, or their little-endian float32 bytes in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsResponse(msgspec.Struct, frozen=True):
    """OpenAI's."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: Usage


class Found(msgspec.Struct, frozen=True):
    """A title found."""

    title: str
    score: float
    ids: list[str]


class Matches(msgspec.Struct, frozen=True):
    """What was found for one title, best first."""

    query: str
    matches: list[Found]


class MatchResponse(msgspec.Struct, frozen=True):
    """Of /match."""

    model: str
    corpus_titles: int
    results: list[Matches]
    usage: Usage


class Token(msgspec.Struct, frozen=True):
    """text-embeddings-inference's."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class Error(msgspec.Struct, frozen=True):
    """What went wrong, and what to do."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(msgspec.Struct, frozen=True):
    """OpenAI's."""

    error: Error


def read(body: bytes, kind: type[T]) -> T:
    """Parse a request's body.

    Raises:
        HttpError: 400 for what is no JSON, 422 for what is no `kind`.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        message, _, place = str(error).replace("`", "").partition(" - at ")
        field = place.removeprefix("$").removeprefix(".") or None
        raise HttpError(422, f"{message}{f' in {field}' if field else ''}; /docs has what this route takes", param=field) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HttpError(400, f"the body is not valid JSON ({str(error)[:200]}); send a JSON object", code="invalid_json") from None


def schemas() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the JSON Schema reference of every type above by its name, and the schemas that they refer to."""
    kinds = [kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    references, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    return dict(zip((kind.__name__ for kind in kinds), references, strict=True)), components
