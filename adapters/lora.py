"""LoRA over a HartVLM, thin over peft: put in, take out, share, weigh, merge.

Knows modules and tensors. Does not know files, data or training. Source: LoRA (Hu et al. 2021, arXiv 2106.09685),
rank-stabilised scaling (Kalajdzievski 2023, arXiv 2312.03732).

A base model is never changed for use: `shared_copy` gives a second tree of modules over the very same tensors, and the
adapter goes into that. So several adapters live beside one base, in several threads, and taking one away leaves the
base as it was, to the bit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer, LoraModel
from torch import Tensor, nn

from adapters.targets import PLACES, parse_places, target_names
from vlm.errors import UserError
from vlm.model import HartVLM

TRAINED = "trained"
MAX_RANK = 1024


@dataclass(frozen=True)
class LoraSettings:
    """places: some of `adapters.targets.PLACES`. The update is alpha / rank (rslora: alpha / √rank) times B A x.

    dropout: of what goes into updates, but in the decoder, whose part of the model is never in training mode.
    """

    places: tuple[str, ...] = tuple(PLACES)
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    rslora: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "places", parse_places(self.places))
        if not 1 <= self.rank <= MAX_RANK:
            raise UserError(f"the rank is {self.rank}, expected 1 to {MAX_RANK}")
        if not 0 < self.alpha < float("inf"):
            raise UserError(f"alpha is {self.alpha}, expected a number above 0")
        if not 0 <= self.dropout < 1:
            raise UserError(f"the dropout is {self.dropout}, expected at least 0 and below 1")


def shared_copy(model: HartVLM) -> HartVLM:
    """Another tree of modules over the same parameters and buffers; nothing is copied but the tree."""
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def put_in(model: HartVLM, settings: LoraSettings, name: str = TRAINED, seed: int = 0) -> LoraModel:
    """Wrap the layers that `settings` name with fresh LoRA weights, in place; all other weights are frozen.

    B starts at zero, so nothing changes yet; A is drawn from `seed` alone.
    """
    # peft draws from the global generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LoraModel(model, _config(model, settings), name)


def weights_of(model: HartVLM, name: str = TRAINED) -> dict[str, nn.Parameter]:
    """The parameters of one adapter, in the model's order, by the names that a file gives them: without its own."""
    inner = f".{name}."
    return {
        key.replace(inner, "."): value
        for key, value in model.named_parameters()
        if inner in key and key.split(inner)[0].endswith(("lora_A", "lora_B"))
    }


def state_of(model: HartVLM, name: str = TRAINED) -> dict[str, Tensor]:
    """The adapter's tensors, copied, contiguous, on the CPU."""
    return {key: value.detach().cpu().clone().contiguous() for key, value in weights_of(model, name).items()}


def apply(model: HartVLM, parts: Sequence[tuple[LoraSettings, Mapping[str, Tensor], float]]) -> HartVLM:
    """A model that shares the base's tensors and adds adapters, each (settings, tensors, weight); evaluation mode.

    Raises `UserError` if an adapter's tensors are not just those that its settings ask of this model.
    """
    view = shared_copy(model)
    tuner: LoraModel | None = None
    names = [f"adapter{number}" for number in range(len(parts))]
    for name, (settings, tensors, weight) in zip(names, parts, strict=True):
        if tuner is None:
            tuner = put_in(view, settings, name)
        else:
            # The base's own names: in the view, wrapped layers are called otherwise.
            tuner.peft_config[name] = _config(model, settings)
            tuner.inject_adapter(view, name)
        _fill(view, name, tensors)
        for layer in view.modules():
            if isinstance(layer, LoraLayer):
                layer.set_scale(name, weight)
    if tuner is not None:
        tuner.set_adapter(names)
    return view.requires_grad_(False).eval()


def merge(model: HartVLM) -> HartVLM:
    """A plain model, sharing nothing, whose weights hold what `apply` added."""
    whole = copy.deepcopy(model)
    active = sorted({name for layer in whole.modules() if isinstance(layer, LoraLayer) for name in layer.lora_A})
    if not active:
        return whole
    for key, module in list(whole.named_modules()):
        if isinstance(module, LoraLayer):
            assert isinstance(module, nn.Module)
            module.merge(safe_merge=True, adapter_names=[name for name in active if name in module.lora_A])
            whole.set_submodule(key, module.get_base_layer())
    del whole.peft_config
    return whole.eval()


@contextmanager
def drawing_from(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Dropout draws from the global generator; for its time that is seeded from ours."""
    seed = int(torch.randint(2**62, (1,), generator=generator))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _config(model: HartVLM, settings: LoraSettings) -> LoraConfig:
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        use_rslora=settings.rslora,
        target_modules=target_names(model, settings.places),
        bias="none",
    )


@torch.no_grad()
def _fill(model: HartVLM, name: str, tensors: Mapping[str, Tensor]) -> None:
    mine = weights_of(model, name)
    expected = {key: value.shape for key, value in mine.items()}
    found = {key: value.shape for key, value in tensors.items()}
    if found != expected:
        wrong = sorted(key for key in {*expected, *found} if expected.get(key) != found.get(key))
        raise UserError(
            f"the adapter's tensors are not those of this model: {len(wrong)} differ, {wrong[0]} is "
            f"{_shape(found.get(wrong[0]))}, expected {_shape(expected.get(wrong[0]))}; get the adapter again"
        )
    for key, value in mine.items():
        value.copy_(tensors[key])


def _shape(shape: torch.Size | None) -> str:
    return "missing" if shape is None else str(tuple(shape))
