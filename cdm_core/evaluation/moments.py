"""Feature moments that can be subtracted exactly: how a reference forgets.

A Gaussian's mean and covariance follow from a count, a sum and a sum of outer products. In floating point, taking a deleted picture's
part away leaves rounding behind, in which the deletion can be seen. So features are rounded to multiples of 1/SCALE and the sums are
integers: subtracting equals recomputing without the picture, bit for bit, in any order.

The sums of outer products are computed by float64 matrix products, as fast as floating point is: every product and every partial sum
is an integer of magnitude 2**53 at most, thus represented exactly, so neither the order of addition nor fused multiplication can
matter. Chunks of CHUNK rows keep that bound; chunks are added as int64, which MAX_COUNT keeps from overflowing.

Out of range is an error, not a saturation: the features used here are averages of ReLU6 outputs (at most 6) or of the same order, and
a value past LIMIT means a broken extractor, not an outlier.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from cdm_core.errors import InvalidInputError

SCALE = 2**14  # steps per unit: a rounding error of at most 3.1e-5
LIMIT = 64  # the largest magnitude of a feature
CHUNK = 2**53 // (SCALE * LIMIT) ** 2  # 8,192 rows
MAX_COUNT = 2**62 // (SCALE * LIMIT) ** 2  # 4,194,304 pictures


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """The quantised moments of `count` feature vectors; compare two by their bytes.

    Attributes:
        count: number of vectors.
        sums: int64 [D], in units of 1/SCALE.
        products: int64 [D, D], symmetric, in units of 1/SCALE².
    """

    count: int
    sums: Tensor
    products: Tensor

    def __post_init__(self) -> None:
        _require_moments(self.count, self.sums, self.products)
        if self.sums.ndim != 1 or self.products.shape != (len(self.sums), len(self.sums)):
            raise ValueError(f"moments don't fit together: sums {list(self.sums.shape)}, products {list(self.products.shape)}")

    def add(self, other: "Moments") -> "Moments":
        """The moments of both sets together.

        Raises:
            ValueError: other dimensions, or too many vectors.
        """
        self._require_same_dimensions(other)
        return Moments(count=self.count + other.count, sums=self.sums + other.sums, products=self.products + other.products)

    def subtract(self, other: "Moments") -> "Moments":
        """The moments without `other`, whose vectors must be among these: bit-equal to recomputing without them.

        Raises:
            ValueError: other dimensions, or more vectors than there are.
        """
        self._require_same_dimensions(other)
        return Moments(count=self.count - other.count, sums=self.sums - other.sums, products=self.products - other.products)

    @property
    def mean(self) -> Tensor:
        """float64 [D].

        Raises:
            ValueError: of no vector.
        """
        if self.count < 1:
            raise ValueError("the mean of no vectors is undefined")
        return self.sums.double() / (self.count * SCALE)

    @property
    def covariance(self) -> Tensor:
        """Unbiased, float64 [D, D].

        Raises:
            ValueError: of fewer than two vectors.
        """
        if self.count < 2:
            raise ValueError(f"the covariance of {self.count} vectors is undefined")
        sums = self.sums.double()
        return (self.products.double() - torch.outer(sums, sums) / self.count) / ((self.count - 1) * SCALE**2)

    def to_bytes(self) -> bytes:
        """As safetensors, of the products the upper triangle only; equal moments give equal bytes."""
        rows, columns = torch.triu_indices(len(self.sums), len(self.sums))
        header = torch.tensor([self.count, SCALE], dtype=torch.int64)
        return save({"count_and_scale": header, "products": self.products[rows, columns].contiguous(), "sums": self.sums.contiguous()})

    @classmethod
    def from_bytes(cls, content: bytes, source: str) -> "Moments":
        """The inverse of `to_bytes`; `source` names the bytes in errors.

        Raises:
            InvalidInputError: these are not the bytes of moments at this SCALE.
        """
        return cls.add_up([(content, source)])

    @classmethod
    def add_up(cls, parts: Iterable[tuple[bytes, str]]) -> "Moments":
        """Of all the sets together that were written, (bytes, source) each: added as they lie, which is a fraction of the work.

        Raises:
            InvalidInputError: some are not the bytes of moments at this SCALE, or have other dimensions than the first.
            ValueError: there is no part, or too many vectors.
        """
        packed = [(_read_packed(content, source), source) for content, source in parts]
        if not packed:
            raise ValueError("no moments to add up")
        count, sums, upper = packed[0][0]
        for (more, more_sums, more_upper), source in packed[1:]:
            if more_sums.shape != sums.shape:
                raise InvalidInputError(f"{source}: not feature moments: {len(more_sums)} dimensions, not {len(sums)}")
            count, sums, upper = count + more, sums + more_sums, upper + more_upper
        rows, columns = torch.triu_indices(len(sums), len(sums))
        products = torch.empty(len(sums), len(sums), dtype=torch.int64)
        products[rows, columns] = upper
        products[columns, rows] = upper
        return cls(count=count, sums=sums, products=products)

    def _require_same_dimensions(self, other: "Moments") -> None:
        if len(self.sums) != len(other.sums):
            raise ValueError(f"moments of {len(self.sums)} and of {len(other.sums)} dimensions")


def _require_moments(count: int, sums: Tensor, products: Tensor) -> None:
    if not 0 <= count <= MAX_COUNT:
        raise ValueError(f"moments of {count} vectors: must be 0 to {MAX_COUNT}")
    if sums.dtype != torch.int64 or products.dtype != torch.int64:
        raise ValueError("moments must be int64")


def _read_packed(content: bytes, source: str) -> tuple[int, Tensor, Tensor]:
    """(count, sums, upper triangle of the products) of `Moments.to_bytes`."""
    try:
        tensors = load(content)
        sums, upper = tensors["sums"], tensors["products"]
        count, scale = (int(number) for number in tensors["count_and_scale"].tolist())
        if scale != SCALE:
            raise ValueError(f"features in steps of 1/{scale}, not 1/{SCALE}")
        if sums.ndim != 1 or upper.shape != (len(sums) * (len(sums) + 1) // 2,):
            raise ValueError(f"{len(sums)} sums don't go with {upper.numel()} products")
        _require_moments(count, sums, upper)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InvalidInputError(f"{source}: not feature moments: {error}") from error
    return count, sums, upper


def compute_moments(features: Tensor) -> Moments:
    """The moments of feature vectors, floating point [N, D]; N may be 0.

    Raises:
        ValueError: not a matrix, or a value that is not finite or beyond ±LIMIT.
    """
    if features.ndim != 2:
        raise ValueError(f"features must be [N, D], not {list(features.shape)}")
    if not bool((features.abs() <= LIMIT).all()):  # so written, it also catches NaN
        raise ValueError(f"features must be finite and within ±{LIMIT}")
    dimensions = features.shape[1]
    sums = torch.zeros(dimensions, dtype=torch.int64)
    products = torch.zeros(dimensions, dimensions, dtype=torch.int64)
    for chunk in torch.split(features, CHUNK):
        quantised = (chunk.double() * SCALE).round()
        sums += quantised.sum(0).long()
        products += (quantised.T @ quantised).long()
    return Moments(count=len(features), sums=sums, products=products)
