"""What users of sentence-transformers bring along: its arguments and attributes, honoured or refused by name.

`Encoder` is the class to read; this is the table of what it takes beside its own arguments, and the surface that clients read.
docs/integrations.md has the same table in words, and tests/test_compatibility.py compares both with the installed version.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from jobonnx.arguments import whole
from jobonnx.arrays import Floats
from jobonnx.bundle.hub import HubAccess
from jobonnx.bundle.manifest import Bundle
from jobonnx.errors import JobonnxError
from jobonnx.progress import stoppable
from jobonnx.runtime.providers import find_provider
from jobonnx.similarity import every_pair, paired, similarity_name
from jobonnx.strict_json import read_json
from jobonnx.text.tokenizer import Tokenizer

Call = TypeVar("Call", bound=Callable[..., Any])
_log = logging.getLogger(__name__)
_SETTINGS = "config_sentence_transformers.json"
_BACKENDS = ("torch", "onnx")  # "torch" is the default of code that moves over; no other result is asked for by it
_ELSEWHERE = {  # argument of the constructor -> what to do instead; they are refused unless empty
    "modules": "export the checkpoint that they make: jobonnx export CHECKPOINT -o BUNDLE",
    "model_kwargs": "name the precision and the provider: variant=..., provider=...",
    "processor_kwargs": "the tokenizer is the bundle's; set truncation=... or max_seq_length",
    "tokenizer_kwargs": "the tokenizer is the bundle's; set truncation=... or max_seq_length",
    "config_kwargs": "the configuration is part of the exported graph; export the bundle again with another one",
    "model_card_data": "a bundle's card is written at export",
}
_PROCESSES = "an Encoder can be pickled: use joblib or a pool of spawned processes, or raise threads=..."
_ABSENT = {  # attribute -> what to do instead
    **dict.fromkeys(("start_multi_process_pool", "stop_multi_process_pool", "encode_multi_process"), _PROCESSES),
    **dict.fromkeys(("save", "save_pretrained", "push_to_hub"), "a bundle is a folder: copy it, or upload it as it is"),
    **dict.fromkeys(("fit", "train", "half", "bfloat16", "float", "compile"), "the graph is fixed; export another variant"),
    **dict.fromkeys(
        ("forward", "preprocess", "modules", "model_card_data", "transformers_model", "evaluate"),
        "open the bundle with jobonnx.sentence_transformers.load, which gives a SentenceTransformer",
    ),
}
_ONCE = {"bundle", "graph", "settings", "variant", "tokenizer", "engine"}  # what a constructor sets, and nobody after it


@dataclass(frozen=True, kw_only=True)
class Options:
    """The keyword arguments of `SentenceTransformer` that `Encoder` has no name of its own for, at their defaults."""

    modules: Any = None
    device: Any = None
    prompts: Mapping[str, str] | None = None
    default_prompt_name: str | None = None
    cache_folder: str | None = None
    trust_remote_code: bool = False  # nothing to trust: a bundle holds no code
    local_files_only: bool = False
    token: bool | str | None = None
    use_auth_token: bool | str | None = None  # the old name of `token`
    model_kwargs: dict[str, Any] | None = None
    processor_kwargs: dict[str, Any] | None = None
    tokenizer_kwargs: dict[str, Any] | None = None  # the old name of `processor_kwargs`
    config_kwargs: dict[str, Any] | None = None
    model_card_data: Any = None
    backend: str = "torch"
    similarity_fn_name: Any = None

    def __post_init__(self) -> None:
        for name, fix in _ELSEWHERE.items():
            if getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name)!r:.200} has no meaning for an exported graph; {fix}")
        if self.backend not in _BACKENDS:
            raise ValueError(f"backend={self.backend!r} is unknown here; name a provider instead, see: jobonnx info")
        if self.token is not None and self.use_auth_token is not None:
            raise ValueError("token and use_auth_token are the same; give token alone")

    @property
    def hub(self) -> HubAccess:
        """How a bundle is looked for on the Hub."""
        token = self.token if self.use_auth_token is None else self.use_auth_token
        return HubAccess(self.cache_folder, token, self.local_files_only)


@dataclass(frozen=True, kw_only=True)
class CallOptions:
    """The keyword arguments of `SentenceTransformer.encode` that are not named in its signature."""

    task: str | None = None  # chooses a route of a model that has several; none of XLM-R does
    processing_kwargs: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.processing_kwargs:
            fix = "set truncation=... or max_seq_length"
            raise ValueError(f"processing_kwargs={self.processing_kwargs!r:.200} would change the bundle's tokenizer; {fix}")


class Device(str):
    """Where the arrays are: a string that has the `type` and `index` of a `torch.device`."""

    @property
    def type(self) -> str:
        """The kind of device, such as "cpu"."""
        return self.split(":")[0]

    @property
    def index(self) -> int | None:  # type: ignore[override] # torch's meaning; nobody searches in the name of a device
        """The number of the device, if it has one."""
        number = self.partition(":")[2]
        return int(number) if number else None


def also_takes(options: type[Any], **other_names: str) -> Callable[[Call], Call]:
    """Show the fields of `options` as arguments of a function that takes them as `**others`, and take arguments by other names.

    Args:
        options: a dataclass of keyword arguments.
        other_names: another name -> the function's own.
    """

    def decorate(function: Call) -> Call:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        more = [inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default) for f in fields(options)]

        @wraps(function)
        def wrapper(*arguments: Any, **named: Any) -> Any:
            for other, name in other_names.items():
                if other in named:
                    if name in named:
                        raise TypeError(f"{name} and {other} are the same; give {name} alone")
                    named[name] = named.pop(other)
            return function(*arguments, **named)

        wrapper.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        return cast(Call, wrapper)

    return decorate


class Surface:
    """The attributes of `SentenceTransformer` that clients read and set, for `Encoder`."""

    bundle: Bundle
    variant: str
    provider: Any  # properties of `Encoder`
    fingerprint: Any
    tokenizer: Tokenizer
    encode: Any
    _prompts: dict[str, str]
    _default_prompt_name: str | None
    _similarity: str
    _truncate_dim: int | None
    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *arguments: Any, **named: Any) -> Self:
        """Keep the arguments as they came."""
        made = super().__new__(cls)
        made._arguments = arguments, named  # for `__reduce__`
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        there = getattr(type(self), name, None)
        settable = there.fset is not None if isinstance(there, property) else callable(there)
        if settable or name.startswith("_") or (name in _ONCE and name not in vars(self)) or self._is_subclass:
            super().__setattr__(name, value)
        elif hasattr(self, name):
            raise AttributeError(f"{name} of an Encoder cannot be set; make another one: Encoder(...)")
        else:
            raise AttributeError(
                f"an Encoder has no {name!r}, so setting it would change nothing; {_ABSENT.get(name, 'see dir(encoder)')}"
            )

    if not TYPE_CHECKING:  # a type checker would believe that there is every attribute

        def __getattr__(self, name: str) -> Any:
            """Say what to use in place of what is not here; called for what is not found otherwise."""
            fix = f"; {_ABSENT[name]}" if name in _ABSENT else ""
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}{fix}")

    def __repr__(self) -> str:
        if "engine" not in vars(self):
            return f"{type(self).__name__}(not opened)"
        source = self.bundle.model.source
        return (
            f"{type(self).__name__}({source!r}, variant={self.variant!r}, provider={self.provider!r}, "
            f"dimension={self.dimension}, max_seq_length={self.max_seq_length})"
        )

    def __reduce__(self) -> Any:
        """Keep the constructor's arguments, what was set since, and the fingerprint; never the token."""
        arguments, named = self._arguments
        if arguments and arguments[0] is not None:
            arguments = (_from_anywhere(arguments[0]), *arguments[1:])
        named = {name: _from_anywhere(v) if name in _SOURCES else v for name, v in named.items() if name not in _SECRETS}
        state = {name: getattr(self, name) for name in _STATE}
        return _reopen, (type(self), arguments, named, state, self.fingerprint)

    @property
    def prompts(self) -> dict[str, str]:
        """Prompts by name: the model's, and those given or set since; "query" and "document" are always there."""
        return self._prompts

    @prompts.setter
    def prompts(self, value: Mapping[str, str]) -> None:
        for name, prompt in value.items():
            if not isinstance(name, str) or not isinstance(prompt, str):
                raise TypeError(f"prompts[{name!r}] is {type(prompt).__name__}; names and prompts have to be str")
        self._prompts = dict(value)

    @property
    def default_prompt_name(self) -> str | None:
        """The prompt of a call that asks for none."""
        return self._default_prompt_name

    @default_prompt_name.setter
    def default_prompt_name(self, value: str | None) -> None:
        if value is not None and value not in self.prompts:
            raise ValueError(f"default_prompt_name={value!r} is unknown; there are {sorted(self.prompts)}")
        self._default_prompt_name = value

    @property
    def truncate_dim(self) -> int | None:
        """Components that are kept of every vector; None for all."""
        return self._truncate_dim

    @truncate_dim.setter
    def truncate_dim(self, value: int | None) -> None:
        self._truncate_dim = whole("truncate_dim", value, self.bundle.model.dimension)

    @property
    def dimension(self) -> int:
        """Length of the vectors that `encode` gives."""
        return self.truncate_dim or self.bundle.model.dimension

    def get_embedding_dimension(self) -> int:
        """Return `dimension`."""
        return self.dimension

    get_sentence_embedding_dimension = get_embedding_dimension

    @property
    def max_seq_length(self) -> int:
        """Longest text in tokens, special tokens included; a lower limit may be set, and changes the fingerprint."""
        return self.tokenizer.max_tokens

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        most = self.bundle.model.max_tokens
        vars(self)["tokenizer"] = self.tokenizer.with_limit(whole("max_seq_length", value, most) or most)

    def get_max_seq_length(self) -> int:
        """Return `max_seq_length`."""
        return self.max_seq_length

    @property
    def similarity_fn_name(self) -> str:
        """What `similarity` computes: "cosine", "dot", "euclidean" or "manhattan"."""
        return self._similarity

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: Any) -> None:
        self._similarity = similarity_name(value)

    def similarity(self, a: Any, b: Any) -> Floats:
        """Compare every vector of `a` with every one of `b`, by cosine unless `similarity_fn_name` says otherwise.

        Args:
            a: float32 [rows, dimension], or one vector; an array, or a tensor of the CPU.
            b: the same.

        Returns:
            float32 [len(a), len(b)]; distances with a minus, so that larger is always more alike.
        """
        return every_pair(self._similarity, a, b)

    def similarity_pairwise(self, a: Any, b: Any) -> Floats:
        """Compare row i of `a` with row i of `b`, as `similarity` does: float32 [rows]."""
        return paired(self._similarity, a, b)

    @property
    def device(self) -> Device:
        """Where the provider reads arrays and leaves them."""
        return Device(find_provider(self.provider).device)

    def to(self, device: Any) -> Self:
        """Return this encoder, which stays where its provider runs.

        Raises:
            ValueError: another device is asked for.
        """
        self._check_device(device)
        return self

    def eval(self) -> Self:
        """Return this encoder: a graph has no training mode."""
        return self

    def get_backend(self) -> str:
        """Return "onnx"."""
        return "onnx"

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Keep `truncate_dim` components within a `with` block."""
        before = self.truncate_dim
        self.truncate_dim = truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before

    truncate_sentence_embeddings = truncate_embeddings

    async def encode_async(self, *arguments: Any, **options: Any) -> Floats:
        """Encode in a thread, while the event loop goes on; cancelling the task stops the work at the next batch.

        Args:
            arguments: `encode`'s.
            options: `encode`'s.

        Returns:
            What `encode` returns.
        """
        import asyncio

        with stoppable() as stop:
            try:
                vectors: Floats = await asyncio.to_thread(self.encode, *arguments, **options)
            except asyncio.CancelledError:
                stop.set()
                raise
        return vectors

    def _configure(self, options: Options) -> None:
        """Take over the constructor's options, once provider and tokenizer are there."""
        self._check_device(options.device)
        model = self.bundle.model
        self.prompts = {"query": "", "document": "", **model.prompts, **(options.prompts or {})}
        self.default_prompt_name = options.default_prompt_name or model.default_prompt_name
        self.similarity_fn_name = options.similarity_fn_name or _saved_similarity(self.bundle)

    def _check_call(self, device: Any, pool: Any, others: Mapping[str, Any]) -> None:
        """Refuse the arguments of a call that cannot be honoured."""
        CallOptions(**others)
        if pool is not None:
            raise ValueError(f"pool= is a pool of sentence-transformers' processes; {_PROCESSES}")
        self._check_device(device)

    def _check_device(self, device: Any) -> None:
        if isinstance(device, list | tuple):
            raise ValueError(f"device={device!r} asks for a process per device; {_PROCESSES}")
        if device is not None and Device(device).type != self.device.type:
            fix = "name a provider of that device: Encoder(..., provider=...), see: jobonnx info"
            raise ValueError(f"device={str(device)!r} is not where provider {self.provider!r} runs ({str(self.device)!r}); {fix}")

    @property
    def _is_subclass(self) -> bool:
        """Whether somebody else's class adds attributes of its own."""
        return type(self).__module__ != "jobonnx.encoder"


_STATE = ("prompts", "default_prompt_name", "truncate_dim", "max_seq_length", "similarity_fn_name")
_SECRETS = ("token", "use_auth_token")
_SOURCES = ("bundle", "model_name_or_path")


def _reopen(
    kind: type[Surface], arguments: tuple[Any, ...], named: Mapping[str, Any], state: Mapping[str, Any], fingerprint: str
) -> Surface:
    """Open an encoder again, in another process or as a copy.

    Raises:
        JobonnxError: the bundle there gives other vectors than the one that was pickled.
    """
    opened: Any = kind(*arguments, **named)
    for name, value in state.items():
        setattr(opened, name, value)
    if opened.fingerprint != fingerprint:
        folder, there, asked = opened.bundle.folder, opened.fingerprint[:12], fingerprint[:12]
        opened.close()
        raise JobonnxError(f"{folder} has fingerprint {there}, the pickled encoder had {asked}; give both the same bundle")
    return cast(Surface, opened)


def _from_anywhere(source: Any) -> Any:
    """Return a folder's absolute path, and a Hub id as it is: a worker may start in another folder."""
    return os.path.abspath(source) if os.path.isdir(source) else source


def _saved_similarity(bundle: Bundle) -> Any:
    """Return the checkpoint's own choice; None if it made none."""
    path = bundle.folder / _SETTINGS
    return read_json(path, dict[str, Any], "export the bundle again").get("similarity_fn_name") if path.is_file() else None
