"""The configuration of the two-tower model; knows sizes, ids and conventions, builds no module.

The guidance convention, stated once and used everywhere (HART's): inside a span the code logits of scale k
(from 0) are ``(1 + t) * conditional - t * unconditional`` with ``t = guidance * k / (K - 1)``, and the last
of the K scales reuses the t of the scale before it. The neutral value is 0 (conditional only). Guidance
applies to codes alone: the residual head sees the conditional branch and nothing else.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hart.config import TokenizerConfig

SUPPORTED_TOWERS = ("llama", "qwen2", "qwen3")
"""Decoder kinds whose layers the training pass of `vlm.towers` knows how to run."""

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|im_start|>", "<|im_end|>", "<|boi|>", "<|eoi|>")


def guidance_weights(guidance: float, scales: int) -> tuple[float, ...]:
    """The t of every scale, see the module's docstring. Raises ValueError for a negative guidance."""
    if guidance < 0:
        raise ValueError(f"guidance must be at least 0 (0 is neutral), got {guidance}")
    ramp = [guidance * k / max(scales - 1, 1) for k in range(scales)]
    if scales > 1:
        ramp[-1] = ramp[-2]
    return tuple(ramp)


class HartVLMConfig(PreTrainedConfig):
    """Sizes and conventions of :class:`vlm.model.HartVLM`.

    text_config, image_config: decoder configs of one kind (Llama, Qwen2, Qwen3); depth, heads, KV heads,
        head width and rotary parameters must agree, hidden width may differ. The text config's
        ``vocab_size`` covers text and special ids; code c has the id ``text_config.vocab_size + c``.
    image_tokenizer: the dict of a ``hart.config.TokenizerConfig``; scales, codes, channels and the residual
        scale are read from it.
    merge: picture rows hold merge × merge latent cells.
    residual_width, residual_depth, residual_steps: the diffusion head and its default number of steps.
    text_weight, code_weight, residual_weight: weights of the three losses.
    coarse_emphasis: in [0, 1]; in the code loss a row of scale k weighs area_k ** -coarse_emphasis. 0 weighs every code
        alike, 1 every scale. What a picture shows is decided at its coarse scales, which have few rows.
    code_softness: above 0, the code loss does not ask for the one nearest code but for all codes by their closeness,
        softmax(-squared distance / code_softness). The second nearest is often as good, and near codes draw alike.
    guidance: default guidance of generation.
    unconditional_probability: share of spans trained without context.

    Raises ValueError when towers disagree, use sliding windows, or sizes do not fit.
    """

    model_type = "hart_vlm"
    sub_configs_defaults = {
        name: SubConfigSpec(config_class=AutoConfig, model_type="llama")
        for name in ("text_config", "image_config")
    }

    text_config: dict | PreTrainedConfig | None = None
    image_config: dict | PreTrainedConfig | None = None
    image_tokenizer: dict | None = None
    merge: int = 2
    pad_id: int = 1
    bos_id: int = 2
    turn_start_id: int = 3
    turn_end_id: int = 4
    boi_id: int = 5
    eoi_id: int = 6
    residual_width: int = 256
    residual_depth: int = 3
    residual_steps: int = 8
    text_weight: float = 1.0
    code_weight: float = 1.0
    residual_weight: float = 1.0
    coarse_emphasis: float = 0.0
    code_softness: float = 0.0
    guidance: float = 0.0
    unconditional_probability: float = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        # A round trip through TokenizerConfig: names unknown keys, and what is stored is plain JSON.
        self.image_tokenizer = TokenizerConfig.from_dict(self.image_tokenizer or {}).to_dict()
        self.text_config = _as_config(self.text_config, "text_config")
        self.image_config = _as_config(self.image_config, "image_config")
        # Its own flag on its own object: given per call on a shared config, is_causal races between threads
        # and sticks.
        if self.image_config is self.text_config:
            raise ValueError("text_config and image_config must be two objects, got the same one twice")
        self.image_config.is_causal = False
        self.image_config.vocab_size = 1
        self.image_config.tie_word_embeddings = False
        self.image_config.pad_token_id = None
        super().__post_init__(**kwargs)
        self.tie_word_embeddings = self.text_config.tie_word_embeddings
        self._check()

    @property
    def text_vocab_size(self) -> int:
        """Rows of the text embedding; the first code's id."""
        return self.text_tower.vocab_size

    @property
    def text_tower(self) -> PreTrainedConfig:
        """text_config, typed."""
        assert isinstance(self.text_config, PreTrainedConfig)
        return self.text_config

    @property
    def image_tower(self) -> PreTrainedConfig:
        """image_config, typed."""
        assert isinstance(self.image_config, PreTrainedConfig)
        return self.image_config

    @property
    def tokenizer_config(self) -> TokenizerConfig:
        """The image tokenizer's settings, typed."""
        return TokenizerConfig.from_dict(self.image_tokenizer or {})

    @property
    def scales(self) -> tuple[int, ...]:
        """Sides of the grids, coarse to fine."""
        return self.tokenizer_config.sides

    @property
    def code_vocab_size(self) -> int:
        """Number of codes V."""
        return self.tokenizer_config.vocab_size

    @property
    def latent_channels(self) -> int:
        """Channels C of latent and residual."""
        return self.tokenizer_config.channels

    @property
    def residual_scale(self) -> float:
        """Residuals are divided by it before diffusion, whose clean samples lie in [-1, 1]."""
        return self.tokenizer_config.residual_scale

    @property
    def picture_rows(self) -> int:
        """Rows by which a finished picture is seen."""
        return (self.scales[-1] // self.merge) ** 2

    @property
    def codes_per_picture(self) -> int:
        """Codes of all scales together."""
        return sum(side * side for side in self.scales)

    def _check(self) -> None:
        text, image = self.text_tower, self.image_tower
        for name, config in (("text_config", text), ("image_config", image)):
            if config.model_type not in SUPPORTED_TOWERS:
                raise ValueError(
                    f"{name}: expected a decoder of {SUPPORTED_TOWERS}, got {config.model_type!r}"
                )
            _refuse_sliding_window(name, config)
            if getattr(config, "attention_dropout", 0):
                raise ValueError(
                    f"{name}: attention dropout is not supported, got {config.attention_dropout}"
                )
        if text.model_type != image.model_type:
            raise ValueError(f"towers must be of one kind, got {text.model_type!r} and {image.model_type!r}")
        for key in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "rope_parameters"):
            _check_equal(key, getattr(text, key), getattr(image, key))
        _check_equal("head width", head_width(text), head_width(image))
        if len(self.scales) == 0 or self.scales[0] != 1:
            raise ValueError(f"scales must begin with 1 (the row of <|boi|> predicts it), got {self.scales}")
        if self.merge < 1 or self.scales[-1] % self.merge:
            raise ValueError(
                f"the last scale must be a multiple of merge {self.merge}, got {self.scales[-1]}"
            )
        ids = (self.pad_id, self.bos_id, self.turn_start_id, self.turn_end_id, self.boi_id, self.eoi_id)
        if len(set(ids)) != len(ids) or min(ids) < 0 or max(ids) >= self.text_vocab_size:
            raise ValueError(f"special ids must be distinct and below {self.text_vocab_size}, got {ids}")
        if not 0 <= self.unconditional_probability <= 1:
            raise ValueError(
                f"unconditional_probability must be in [0, 1], got {self.unconditional_probability}"
            )
        if not 0 <= self.coarse_emphasis <= 1:
            raise ValueError(f"coarse_emphasis must be in [0, 1], got {self.coarse_emphasis}")
        guidance_weights(self.guidance, len(self.scales))


def head_width(config: PreTrainedConfig) -> int:
    """Width of one attention head of a decoder config."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _as_config(value: dict | PreTrainedConfig | None, name: str) -> PreTrainedConfig:
    if isinstance(value, PreTrainedConfig):
        return value
    if value is None:
        return AutoConfig.for_model("llama")
    if "model_type" not in value:
        raise ValueError(
            f"{name} needs a model_type, one of {SUPPORTED_TOWERS}; got the keys {sorted(value)}"
        )
    settings = dict(value)
    return AutoConfig.for_model(settings.pop("model_type"), **settings)


def _refuse_sliding_window(name: str, config: PreTrainedConfig) -> None:
    kinds = set(getattr(config, "layer_types", None) or ())
    if getattr(config, "use_sliding_window", False) or kinds - {"full_attention"}:
        raise ValueError(
            f"{name}: sliding-window attention is not supported, got layer types {sorted(kinds)}"
        )


def _check_equal(what: str, text: Any, image: Any) -> None:
    if text != image:
        raise ValueError(f"towers must agree in {what}: text has {text}, image has {image}")
