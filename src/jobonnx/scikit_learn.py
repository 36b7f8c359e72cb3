"""Job titles to vectors as a step of a scikit-learn pipeline. Needs scikit-learn; it comes with the extra "scikit-learn"."""

from __future__ import annotations

import os
from typing import Any, Self

from sklearn.base import BaseEstimator, TransformerMixin

from jobonnx.arrays import Floats
from jobonnx.encoder import Encoder


class TitleVectors(TransformerMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """A transformer over `Encoder`. It learns nothing, so that cross-validation and grid search copy its parameters alone.

    The bundle is opened by the first `transform`, in each process once for each copy.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | None = None,
        *,
        variant: str | None = None,
        provider: str = "auto",
        threads: int | None = None,
        truncate_dim: int | None = None,
        prompt_name: str | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Keep the parameters, under their names, as scikit-learn wants it.

        Args:
            bundle: as `Encoder` takes it.
            variant: as `Encoder` takes it.
            provider: as `Encoder` takes it.
            threads: as `Encoder` takes it.
            truncate_dim: as `Encoder` takes it.
            prompt_name: as `Encoder.encode` takes it.
            batch_size: as `Encoder.encode` takes it.
        """
        self.bundle, self.variant, self.provider, self.threads = bundle, variant, provider, threads
        self.truncate_dim, self.prompt_name, self.batch_size = truncate_dim, prompt_name, batch_size

    def fit(self, titles: Any, y: Any = None) -> Self:
        """Open the bundle: a wrong one is an error before any work.

        Args:
            titles: not looked at.
            y: not looked at.
        """
        self._open()
        return self

    def transform(self, titles: Any) -> Floats:
        """Encode titles, as `Encoder.encode` takes them: float32 [titles, dimension]."""
        return self._open().encode(titles, self.prompt_name, batch_size=self.batch_size)

    def get_feature_names_out(self, input_features: Any = None) -> Any:
        """Name the components: "title0", "title1", and so on; a string array [dimension]."""
        import numpy as np

        return np.asarray([f"title{i}" for i in range(self._open().dimension)], dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        state.pop("_opened", None)
        return state

    def _open(self) -> Encoder:
        """Open the bundle, or another one after `set_params`."""
        asked = (self.bundle, self.variant, self.provider, self.threads, self.truncate_dim)
        if getattr(self, "_opened", (None, None))[0] != asked:
            options: dict[str, Any] = dict(zip(("variant", "provider", "threads", "truncate_dim"), asked[1:], strict=True))
            self._opened = asked, Encoder(self.bundle, **options)
        return self._opened[1]
