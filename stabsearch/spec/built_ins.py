"""Fields of the built-in models and data, as stabsearch.diffusion takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from stabsearch.problems import Problem, nearest, problems_of, raise_problems
from stabsearch.spec.parts import NOT_TEXT, NonNegativeFloat, Part, PositiveFloat, PositiveInt

TimeEmbedding = Literal["sinusoidal", "fourier", "none"]
Conditioning = Literal["add", "film"]

WidthOfFours = Annotated[int, Field(ge=4, multiple_of=4), NOT_TEXT]
EvenWidth = Annotated[int, Field(ge=2, multiple_of=2), NOT_TEXT]
NumBlocks = Annotated[int, Field(ge=0), NOT_TEXT]
AtLeastOneBlock = Annotated[int, Field(ge=1), NOT_TEXT]
AtLeastTwo = Annotated[int, Field(ge=2), NOT_TEXT]
Seed = Annotated[int, Field(ge=0), NOT_TEXT]


class DenoiserOptions(Part):
    """What every built-in denoiser takes: the cures for poor time conditioning, to be searched."""

    time_embedding: TimeEmbedding = Field(
        "sinusoidal",
        description="How the model is told the timestep; none: not at all, for ablation.",
    )
    conditioning: Conditioning = Field(
        "add", description="The time embedding is added, or scales and shifts (film, adaLN)."
    )
    residual: bool = Field(True, description="Blocks add to their input; false: replace it.")


class MlpOptions(DenoiserOptions):
    width: EvenWidth = Field(64, description="Units per hidden layer; an even number.")
    num_blocks: NumBlocks = Field(2, description="Residual blocks.")
    layer_norm: bool = Field(False, description="LayerNorm at the start of every block.")


class UnetOptions(DenoiserOptions):
    width: WidthOfFours = Field(
        32, description="Channels at full resolution; a multiple of 4, the size of a norm's group."
    )
    num_blocks: AtLeastOneBlock = Field(1, description="Residual blocks per resolution.")
    num_resolutions: PositiveInt = Field(
        2, description="Each halves the image and doubles the channels."
    )
    attention: bool = Field(True, description="Self-attention at the lowest resolution.")


class DitOptions(DenoiserOptions):
    width: WidthOfFours = Field(
        64, description="Numbers per token; a multiple of 4 and of num_heads."
    )
    num_blocks: AtLeastOneBlock = Field(4, description="Transformer blocks.")
    num_heads: PositiveInt = Field(4, description="Attention heads; a divisor of width.")
    patch_size: PositiveInt = Field(2, description="Side of the square that is one token.")
    mlp_ratio: PositiveInt = Field(4, description="Width of a block's MLP / width.")
    conditioning: Conditioning = Field(
        "film", description="film: adaLN-zero; add: the time embedding is added to the tokens."
    )

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.width % self.num_heads:
            problem = Problem(
                path=("num_heads",),
                value=self.num_heads,
                rule=f"must divide model.width ({self.width})",
                remedy="Use a width that is a multiple of it.",
                partners=("model.width",),
            )
            raise_problems([problem])
        return self


class DigitsOptions(Part):
    """The built-in data ``digits`` takes no further fields."""


class FileOptions(Part):
    path: str = Field(
        min_length=1, description="File or folder, on the machine that drives the search."
    )


class ImageFolderOptions(FileOptions):
    image_size: PositiveInt = Field(description="Side to which images are cropped and resized.")
    channels: Literal[1, 3] = Field(3, description="1: grey, 3: RGB.")
    max_examples: PositiveInt | None = Field(None, description="Use this many at most.")


class ArrayOptions(FileOptions):
    key: str | None = Field(None, description="Name of the array in an .npz file.")
    channels_last: bool = Field(False, description="The array is [N, H, W, C].")


class ParquetOptions(FileOptions):
    columns: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="Columns to use; null: all."
    )
    standardize: bool = Field(True, description="Give every column mean 0 and variance 1.")


class TorchvisionOptions(Part):
    dataset: str = Field(min_length=1, description="Class in torchvision.datasets, e.g. MNIST.")
    root: str = Field(min_length=1, description="Folder that holds the data set's files.")
    image_size: PositiveInt | None = Field(None, description="Resize images to this side.")
    max_examples: PositiveInt | None = Field(None, description="Use this many at most.")


class HuggingfaceOptions(FileOptions):
    column: str = Field("image", description="Column that holds the examples.")
    split: str | None = Field(None, description="Split, where the data set has several.")
    image_size: PositiveInt | None = Field(None, description="Resize images to this side.")
    max_examples: PositiveInt | None = Field(None, description="Use this many at most.")


class MixtureOptions(Part):
    num_examples: AtLeastTwo = Field(5000, description="Points to draw.")
    num_modes: PositiveInt = Field(8, description="Gaussians on a ring.")
    radius: PositiveFloat = Field(1.4, description="Of the ring; 1.4 gives unit variance.")
    std: PositiveFloat = Field(0.05, description="Of each Gaussian.")
    seed: Seed = Field(0, description="Of the draw.")


class GaussianOptions(Part):
    spectrum: Annotated[list[NonNegativeFloat], Field(min_length=1)] | None = Field(
        None, description="Eigenvalues of the covariance; null: a power law."
    )
    num_dimensions: PositiveInt = Field(16, description="Of the power law.")
    decay: NonNegativeFloat = Field(1.0, description="Eigenvalue i is i ** -decay.")
    num_examples: AtLeastTwo = Field(4096, description="Points to draw.")
    seed: Seed = Field(0, description="Of the draw.")
    exact: bool = Field(False, description="The sample itself has exactly this covariance.")


BUILT_IN_MODELS: dict[str, type[Part]] = {
    "mlp": MlpOptions,
    "unet": UnetOptions,
    "dit": DitOptions,
}
BUILT_IN_DATA: dict[str, type[Part]] = {
    "digits": DigitsOptions,
    "image_folder": ImageFolderOptions,
    "array": ArrayOptions,
    "parquet": ParquetOptions,
    "torchvision": TorchvisionOptions,
    "huggingface": HuggingfaceOptions,
    "mixture": MixtureOptions,
    "gaussian": GaussianOptions,
}

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def check_name(name: str, built_in: Mapping[str, type[Part]], example: str) -> str:
    """A name is built in or a reference ``module:function``."""
    if name in built_in or _REFERENCE.fullmatch(name):
        return name
    found = nearest(name, built_in)
    names = ", ".join(built_in)
    raise_problems(
        [
            Problem(
                path=(),
                value=name,
                rule="is neither built in nor a reference module:function",
                remedy=f"Did you mean {found}?" if found else f"Use {names}, or write {example}.",
            )
        ]
    )
    raise AssertionError("raise_problems returned")  # pragma: no cover


def check_options(
    built_in: Mapping[str, type[Part]], name: str, options: Mapping[str, Any] | None
) -> None:
    """A built-in's fields are known: a misspelt or missing one is caught before Ray starts."""
    kind = built_in.get(name)
    if kind is None:
        return
    try:
        kind.model_validate(dict(options or {}))
    except ValidationError as error:
        details = zip(problems_of(error, kind), error.errors(), strict=True)
        raise_problems(
            replace(p, rule=f"unknown field of {name}") if d["type"] == "extra_forbidden" else p
            for p, d in details
        )
