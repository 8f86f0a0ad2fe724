"""Which trials nothing beats: the Pareto front."""

from collections.abc import Sequence

Point = Sequence[float]  # objectives, each turned so that less is better


def dominates(a: Point, b: Point) -> bool:
    """Whether `a` is nowhere worse than `b` and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other dominates, in their order; equal points stay together."""
    # Whatever dominates a point comes before it in the lexicographic order, and so does one of the front that does.
    kept: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (tuple(points[i]), i)):
        if not any(dominates(points[other], points[index]) for other in kept):
            kept.append(index)
    return sorted(kept)
