"""What an execution provider is: its names, whether it is here, and how it opens a graph, groups rows and runs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobonnx.arrays import Ints
from jobonnx.bundle.manifest import Model
from jobonnx.errors import JobonnxError, ProviderUnavailableError, reason
from jobonnx.runtime.providers.wheel import import_onnxruntime
from jobonnx.runtime.session import Session, Settings
from jobonnx.text.batching import batch_by_length

_AGAIN = "export or download the bundle again"
STANDARD = "standard"  # the target of graphs of standard ONNX operators, for every provider without a target of its own


class Provider:
    """An execution provider of ONNX Runtime. Subclasses say what is different about theirs."""

    name: str  # as users ask for it
    ort_name: str
    target: str = STANDARD  # which of a bundle's graphs it runs
    install: str  # the command that brings it
    untested: bool = True  # nobody has run `jobonnx verify` on it and told us
    device: str = "cpu"  # ONNX Runtime's name of where inputs and outputs lie
    missing_library: bool = False  # it loads libraries that may be missing, so a graph that does not load may be whole
    token_budget: int = 2048  # padded tokens of a batch: full GEMM speed, and activations that stay in a CPU's cache
    parallel: bool = True  # whether several streams may share its threads
    block: int = 0  # titles that the host prepares while the device computes those before; 0 where the host itself computes
    captures: bool = False  # whether it can record small batches and replay them
    disabled_optimizers: tuple[str, ...] = ()

    def is_here(self) -> bool:
        """Tell whether the installed onnxruntime has it. Libraries that it needs may still be missing; loading shows that."""
        return self.ort_name in import_onnxruntime().get_available_providers()

    def unavailable_reason(self, variant: str | None = None) -> str | None:
        """Say why it, or a variant on it, cannot run here and what to do, in one sentence; None if it can."""
        return None if self.is_here() else self.not_installed()

    def for_variant(self, variant: str) -> Provider:
        """Return the provider as a variant's graph is opened with: itself, but where one graph serves two precisions."""
        return self

    def not_installed(self) -> str:
        """Return the sentence for a provider that the installed onnxruntime does not have."""
        ort = import_onnxruntime()
        there = f"onnxruntime {ort.__version__} here (it has {', '.join(ort.get_available_providers())})"
        return f"provider {self.name!r} is not in {there}; install it: {self.install}"

    def configure(self, options: Any, graph: Path, model: Model | None, settings: Settings) -> list[Any] | None:
        """Set session options; return the `providers` argument of InferenceSession, or None if the options name devices."""
        # The CPU provider takes the arithmetic of shapes; `Session.nodes` shows what went there.
        return [(self.ort_name, {}), "CPUExecutionProvider"]

    def batches(self, lengths: Sequence[int], token_budget: int, max_rows: int | None = None) -> list[Ints]:
        """Group rows into batches as it runs them best; see `batch_by_length`."""
        return batch_by_length(lengths, token_budget, max_rows)

    def wrap(self, session: Any, graph: Path, model: Model | None, settings: Settings) -> Session:
        """Make the `Session` of an opened InferenceSession."""
        return Session(session, self.name, settings.threads)

    def open_session(self, graph: Path, model: Model | None, settings: Settings) -> Session:
        """Load a graph, or fail: there is no fallback.

        Args:
            graph: the graph file; its external data lies beside it.
            model: what the graph was made of; None for a graph that is no model's.
            settings: threads, spinning, capture.

        Raises:
            JobonnxError: no onnxruntime, two clashing ones, the provider is not here, or the graph does not load.
        """
        if missing := self.unavailable_reason():
            raise ProviderUnavailableError(missing)
        if settings.capture and not self.captures:
            raise JobonnxError(f"provider {self.name!r} cannot capture batches; leave capture out")
        ort = import_onnxruntime()
        options = session_options(ort, settings)
        providers = self.configure(options, graph, model, settings)
        extra = {"disabled_optimizers": list(self.disabled_optimizers), "enable_fallback": 0}

        def load() -> Any:
            # onnxruntime's own fallback would print to stdout and go on with the CPU.
            session = ort.InferenceSession(str(graph), options, providers=providers, **extra)
            session.disable_fallback()
            return session

        try:
            session = load()
        except Exception as error:  # onnxruntime's own exception types are not public
            message = f"{graph} does not load on provider {self.name!r}: {reason(error)}"
            if self.missing_library:
                raise ProviderUnavailableError(f"{message}; what it needs comes with: {self.install}") from None
            raise JobonnxError(message) from None
        if (got := session.get_providers()[0]) != self.ort_name:
            fix = f"a library it needs is missing: {self.install}"
            raise ProviderUnavailableError(f"provider {self.name!r} was asked for, onnxruntime gave {got}; {fix}")
        last = session.get_outputs()[0].shape[-1]
        if model is not None and isinstance(last, int) and last != model.dimension:
            raise JobonnxError(f"{graph} gives vectors of {last} dimensions, its manifest says {model.dimension}; {_AGAIN}")
        opened = self.wrap(session, graph, model, settings)
        opened.graph, opened.block = str(graph), self.block
        if type(opened) is Session:  # one with state of its own on a device cannot be had again in a forked process
            opened.open_again = load
        return opened


def session_options(ort: Any, settings: Settings) -> Any:
    """ONNX Runtime's options that all providers share."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1  # the graph is a chain: nothing to run side by side
    options.log_severity_level = 4  # what is logged below that is raised too
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if settings.spin else "0")
    return options
