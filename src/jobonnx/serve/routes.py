"""What each route does: OpenAI's, text-embeddings-inference's, and ours."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, cast

import msgspec

from jobonnx import __version__
from jobonnx.arrays import unit
from jobonnx.prompts import QUERY, choose_prompt, prompt_of
from jobonnx.serve import vectors as write
from jobonnx.serve.cache import Text
from jobonnx.serve.http import Call, HttpError, Reply, json_reply
from jobonnx.serve.openapi import docs_page, document
from jobonnx.serve.operation import Operation
from jobonnx.serve.schemas import (
    EmbeddingsRequest,
    EmbeddingsResponse,
    EmbedRequest,
    MatchRequest,
    MatchResponse,
    RootRequest,
    SimilarityInputs,
    SimilarityParameters,
    SimilarityRequest,
    Token,
    TokenizeRequest,
    read,
)
from jobonnx.serve.service import Service
from jobonnx.serve.settings import MOST_CHARACTERS, MOST_QUERIES, MOST_TEXTS

_CSP = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
_HTML = "text/html; charset=utf-8"
_FIX = (
    "token ids of another model's tokenizer would give wrong vectors; send texts "
    "(LangChain's OpenAIEmbeddings: check_embedding_ctx_length=False), or start the service with --accept-token-ids "
    "if the ids are this model's"
)


class Routes:
    """The handlers of one service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._encoder, self._model, self._settings = service.encoder, service.model, service.settings
        self._created = int(time.time())
        self._names = {self._model.source, self._model.source.rsplit("/", 1)[-1]}

    def operations(self) -> list[Operation]:
        """List them, the most used first: the router looks from the top."""
        operations = [
            Operation("POST", "/v1/embeddings", self.embeddings, "Vectors, as OpenAI's API", EmbeddingsRequest, EmbeddingsResponse),
            Operation("POST", "/embed", self.embed, "Vectors, as text-embeddings-inference", EmbedRequest, list[list[float]]),
            Operation("POST", "/match", self.match, "The most similar titles of the index", MatchRequest, MatchResponse),
            Operation("POST", "/", self.root, "The same as /embed or /similarity, by what the body holds", RootRequest),
            Operation("POST", "/similarity", self.similarity, "Cosines of a text with others", SimilarityRequest, list[float]),
            Operation("POST", "/tokenize", self.tokenize, "Tokens of texts", TokenizeRequest, list[list[Token]]),
            Operation("GET", "/health", self.health, "200 unless the process should be restarted", open=True),
            Operation("GET", "/ready", self.ready, "200 if requests may come, 503 while warming or stopping", open=True),
            Operation("GET", "/metrics", self.metrics, "Metrics for Prometheus"),
            Operation("GET", "/v1/models", self.models, "The model, as OpenAI's API"),
            Operation("GET", "/info", self.info, "What runs, as text-embeddings-inference"),
            Operation("GET", "/", self.page, "A page to try /match", open=True),
            Operation("GET", "/docs", self.docs, "This list", open=True),
            Operation("GET", "/openapi.json", self.openapi, "This list, for programs", open=True),
        ]
        content = document(operations)
        self._document, self._docs = json_reply(content).body, docs_page(content)
        self._page = (files("jobonnx.serve") / "page" / "index.html").read_bytes()
        return operations

    # Vectors

    async def embeddings(self, call: Call) -> Reply:
        """POST /v1/embeddings."""
        request = read(await call.body(), EmbeddingsRequest)
        if request.model is not None and request.model not in self._names:
            message = f"the model {request.model[:100]!r} is not served here; this service has {self._model.source!r}"
            raise HttpError(404, message, code="model_not_found", param="model")
        self._check_dimensions(request.dimensions)
        texts = self._with_prompt(self._texts(request.input, "input"), None)
        vectors = write.shortened(await self._service.embed(call, texts), request.dimensions, False)
        parts = write.openai(vectors, self._model.source, call.tokens, request.encoding_format == "base64")
        return Reply(write.joined(parts, len(vectors)))

    async def embed(self, call: Call) -> Reply:
        """POST /embed."""
        return await self._embed(call, read(await call.body(), EmbedRequest))

    async def root(self, call: Call) -> Reply:
        """POST /."""
        request = read(await call.body(), RootRequest)
        if isinstance(request.inputs, SimilarityInputs):
            return await self._similarity(call, SimilarityRequest(request.inputs, request.parameters))
        same = (request.inputs, request.normalize, request.truncate, request.truncation_direction, request.prompt_name)
        return await self._embed(call, EmbedRequest(*same, request.dimensions))

    async def _embed(self, call: Call, request: EmbedRequest) -> Reply:
        self._check_dimensions(request.dimensions)
        texts = self._with_prompt(self._texts(request.inputs, "inputs"), request.prompt_name)
        await self._check_truncation(texts, request)
        normalize = request.normalize is not False and not self._model.normalize
        vectors = write.shortened(await self._service.embed(call, texts), request.dimensions, normalize)
        return Reply(write.joined(write.plain(vectors), len(vectors)))

    async def similarity(self, call: Call) -> Reply:
        """POST /similarity."""
        return await self._similarity(call, read(await call.body(), SimilarityRequest))

    async def _similarity(self, call: Call, request: SimilarityRequest) -> Reply:
        parameters = request.parameters or SimilarityParameters()
        texts = [request.inputs.source_sentence, *request.inputs.sentences]
        if len(texts) == 1:
            raise HttpError(422, "there are no sentences to compare with; send at least one", param="inputs.sentences")
        whole = self._with_prompt(self._texts(texts, "inputs"), parameters.prompt_name)
        await self._check_truncation(whole, parameters)
        vectors = unit(await self._service.embed(call, whole))
        return json_reply(vectors[1:] @ vectors[0])

    async def match(self, call: Call) -> Reply:
        """POST /match."""
        request = read(await call.body(), MatchRequest)
        queries = [request.titles] if isinstance(request.titles, str) else request.titles
        if len(queries) > MOST_QUERIES:
            raise HttpError(
                422, f"there are {len(queries):,} titles, the limit is {MOST_QUERIES}; send fewer at once", param="titles"
            )
        texts = _behind(prompt_of(self._encoder, QUERY), self._texts(queries, "titles"))
        self._service.check_corpus()
        vectors = await self._service.embed(call, texts)
        found = await self._service.match(call, vectors if self._model.normalize else unit(vectors), request.top_k)
        results = [
            {"query": query, "matches": [{"title": match.title, "score": match.score, "ids": match.ids} for match in matches]}
            for query, matches in zip(queries, found, strict=True)
        ]
        usage = {"prompt_tokens": call.tokens, "total_tokens": call.tokens}
        return json_reply(
            {"model": self._model.source, "corpus_titles": len(self._service.corpus), "results": results, "usage": usage}
        )

    # Tokens

    async def tokenize(self, call: Call) -> Reply:
        """POST /tokenize."""
        request = read(await call.body(), TokenizeRequest)
        texts = self._with_prompt(self._texts(request.inputs, "inputs"), request.prompt_name)
        tokens = await self._service.aside(self._service.plain.tokens, texts, request.add_special_tokens)
        call.titles, call.tokens = len(texts), sum(map(len, tokens))
        return Reply(await self._service.aside(msgspec.json.encode, tokens))

    # What runs

    async def health(self, call: Call) -> Reply:
        """GET /health."""
        return _state(self._service.unhealthy())

    async def ready(self, call: Call) -> Reply:
        """GET /ready."""
        return _state(self._service.unready())

    async def metrics(self, call: Call) -> Reply:
        """GET /metrics."""
        return Reply(self._service.metrics.text(), content_type=self._service.metrics.content_type)

    async def models(self, call: Call) -> Reply:
        """GET /v1/models."""
        model = {"id": self._model.source, "object": "model", "created": self._created, "owned_by": "jobonnx"}
        return json_reply({"object": "list", "data": [model]})

    async def info(self, call: Call) -> Reply:
        """GET /info."""
        encoder, model = self._encoder, self._model
        return json_reply(
            {
                "model_id": model.source,
                "model_sha": model.revision,
                "model_dtype": encoder.variant,
                "model_type": {"embedding": {"pooling": model.pooling}},
                "max_input_length": model.max_tokens,
                "max_batch_tokens": encoder.settings.token_budget,
                "max_client_batch_size": MOST_TEXTS,
                "max_queue_tokens": self._settings.max_queue_tokens,
                "auto_truncate": True,
                "dimension": encoder.dimension,
                "fingerprint": encoder.fingerprint,
                "provider": encoder.provider,
                "threads": encoder.settings.threads,
                "corpus_titles": len(self._service.corpus),
                "prompts": sorted(encoder.prompts),
                "version": __version__,
            }
        )

    async def page(self, call: Call) -> Reply:
        """GET /."""
        headers = {
            "Content-Security-Policy": f"{_CSP}; script-src 'unsafe-inline'; connect-src 'self'",
            "Cache-Control": "no-cache",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        return Reply(self._page, content_type=_HTML, headers=headers)

    async def docs(self, call: Call) -> Reply:
        """GET /docs."""
        headers = {"Content-Security-Policy": _CSP}
        return Reply(self._docs, content_type=_HTML, headers=headers)

    async def openapi(self, call: Call) -> Reply:
        """GET /openapi.json."""
        return Reply(self._document)

    # Checks

    def _texts(self, inputs: str | Sequence[str | int | list[int]], field: str) -> list[Text]:
        """Return the texts of a request, or the rows of token ids of one that may send some.

        Raises:
            HttpError: 422, for none, too many, too long ones, or token ids.
        """
        if isinstance(inputs, str):
            inputs = [inputs]
        if not inputs:
            raise HttpError(422, f"{field} is empty; send at least one text", param=field)
        if isinstance(inputs[0], int):
            inputs = [cast(list[int], inputs)]  # one row of token ids; checked below
        if len(inputs) > MOST_TEXTS:
            raise HttpError(422, f"{field} has {len(inputs):,} texts, the limit is {MOST_TEXTS:,}; send fewer at once", param=field)
        texts: list[Text] = []
        for place, text in enumerate(inputs):
            if isinstance(text, str):
                if len(text) > MOST_CHARACTERS:
                    message = f"text {place} has {len(text):,} characters, the limit is {MOST_CHARACTERS:,}; shorten it"
                    raise HttpError(422, message, param=field)
                texts.append(text)
            elif not self._settings.accept_token_ids:
                raise HttpError(422, f"{field} holds token ids, which are refused: {_FIX}", code="token_ids", param=field)
            else:
                texts.append(self._row(text, place, field))
        return texts

    def _row(self, row: Any, place: int, field: str) -> tuple[int, ...]:
        most, vocabulary = self._model.max_tokens, self._model.vocabulary
        if not isinstance(row, list) or not all(isinstance(token, int) and 0 <= token < vocabulary for token in row):
            message = f"row {place} holds what is no token id of this model; they are whole numbers from 0 to {vocabulary - 1:,}"
            raise HttpError(422, message, code="token_ids", param=field)
        if not 0 < len(row) <= most:
            raise HttpError(422, f"row {place} has {len(row):,} token ids; it has to be 1 to {most}", code="token_ids", param=field)
        return tuple(row)

    def _with_prompt(self, texts: list[Text], name: str | None) -> list[Text]:
        """Put the prompt before every text, as Encoder.encode does."""
        try:
            before = choose_prompt(self._encoder.prompts, self._encoder.default_prompt_name, name, None)
        except ValueError as error:
            raise HttpError(422, str(error), param="prompt_name") from None
        return _behind(before, texts)

    async def _check_truncation(self, texts: list[Text], request: EmbedRequest | SimilarityParameters) -> None:
        direction = (request.truncation_direction or "").lower()
        if direction and direction != self._encoder.tokenizer.truncation:
            message = f"this service cuts texts on the {self._encoder.tokenizer.truncation}; leave truncation_direction out"
            raise HttpError(422, message, param="truncation_direction")
        if request.truncate is False:
            whole = [text for text in texts if isinstance(text, str) and len(text) > self._model.max_tokens // 4]
            counts = await self._service.aside(self._service.plain.counts, whole) if whole else []
            if (longest := max(counts, default=0)) > self._model.max_tokens:
                message = f"a text has {longest:,} tokens, the limit is {self._model.max_tokens}; shorten it or leave truncate out"
                raise HttpError(413, message, code="too_long", param="inputs")

    def _check_dimensions(self, dimensions: int | None) -> None:
        if dimensions is not None and dimensions > self._encoder.dimension:
            message = f"dimensions is {dimensions}, and the model's vectors have {self._encoder.dimension}; ask for fewer"
            raise HttpError(422, message, param="dimensions")


def _state(problem: str | None) -> Reply:
    if problem is None:
        return Reply(b'{"status":"ok"}')
    raise HttpError(503, problem, code="unavailable", headers={"Retry-After": "1"})


def _behind(prompt: str, texts: list[Text]) -> list[Text]:
    """Put a prompt before every text; token ids are complete."""
    return [prompt + text if isinstance(text, str) else text for text in texts] if prompt else texts
