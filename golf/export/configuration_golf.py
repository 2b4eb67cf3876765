"""The configuration of an exported model, as a class of transformers."""

from typing import Any

from transformers import PretrainedConfig  # pyright: ignore[reportMissingImports]


class GolfConfig(PretrainedConfig):
    """`network` has the fields of the project's ModelConfig, which network_golf.py has as its CONFIG.

    `compute_dtype` is the dtype of activations on a GPU where weights are float32.
    """

    model_type = "golf"

    def __init__(
        self,
        network: dict[str, Any] | None = None,
        compute_dtype: str = "float32",
        use_cache: bool = True,
        **kwargs: Any,
    ) -> None:
        self.network, self.compute_dtype, self.use_cache = network, compute_dtype, use_cache
        super().__init__(**kwargs)
