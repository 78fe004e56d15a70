"""k-means centroids of one shard's CLIP embeddings: what the kNN composition knows of a shard.

Each shard's are computed from that shard alone, so a deletion recomputes those of the hit shard and no other. Our own few lines
rather than scikit-learn's: at one thread their bits depend on the embeddings, their order, `num` and `seed` only. Centroids are plain
means, not pushed back to unit length, as in the paper's distance.

References: D. Arthur and S. Vassilvitskii, k-means++, SODA 2007; S. Lloyd, Least Squares Quantization in PCM, 1982.
"""

import torch
from torch import Tensor

MAX_ITERATIONS = 100


def compute_centroids(embeddings: Tensor, num: int, seed: int) -> Tensor:
    """k-means++ and Lloyd's iterations on embeddings, [N, D]: float32 [K, D], K the least of `num`, N and the number of distinct rows.

    Raises:
        ValueError: no embeddings, or num below 1.
    """
    if embeddings.ndim != 2 or len(embeddings) == 0:
        raise ValueError(f"embeddings must be [N, D] with N > 0, not {list(embeddings.shape)}")
    if num < 1:
        raise ValueError(f"the number of centroids must be 1 or more, not {num}")
    points = embeddings.double()
    centroids = _choose_initial(points, num, torch.Generator().manual_seed(seed))
    assigned = torch.full((len(points),), -1)
    for _ in range(MAX_ITERATIONS):
        nearest = _squared_distances(points, centroids).argmin(dim=1)
        if torch.equal(nearest, assigned):
            break
        assigned = nearest
        for index in range(len(centroids)):
            if bool((assigned == index).any()):  # an emptied cluster stays where it is
                centroids[index] = points[assigned == index].mean(dim=0)
    return centroids.float()


def _choose_initial(points: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """k-means++: each next centroid is a point drawn in proportion to its squared distance to the nearest one so far."""
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    distances = _squared_distances(points, points[chosen]).squeeze(1)
    while len(chosen) < num and bool((distances > 0).any()):
        chosen.append(int(torch.multinomial(distances, 1, generator=generator)))
        distances = torch.minimum(distances, _squared_distances(points, points[chosen[-1:]]).squeeze(1))
    return points[chosen]


def _squared_distances(points: Tensor, centroids: Tensor) -> Tensor:
    # Differences, not the expanded square: a point's distance to itself must be exactly 0.
    return torch.cdist(points, centroids, compute_mode="donot_use_mm_for_euclid_dist").square()
