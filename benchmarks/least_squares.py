"""The weights of a sum that fits what was measured best."""

from collections.abc import Sequence


def least_squares(rows: Sequence[Sequence[float]], measured: Sequence[float]) -> Sequence[float]:
    """Return one weight for each column, so that the rows' weighted sums are near to what was measured."""
    columns = [*zip(*rows, strict=True)]
    system = [[_product(one, other) for other in columns] + [_product(one, measured)] for one in columns]
    return _solved(system)


def _product(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def _solved(system: list[list[float]]) -> Sequence[float]:
    """Solve linear equations, the right side last in each, by elimination."""
    size = len(system)
    for column in range(size):
        pivot = max(range(column, size), key=lambda row: abs(system[row][column]))
        system[column], system[pivot] = system[pivot], system[column]
        head = system[column]
        for row in range(size):
            if row != column:
                factor = system[row][column] / head[column]
                system[row] = [a - factor * b for a, b in zip(system[row], head, strict=True)]
    return [system[index][size] / system[index][index] for index in range(size)]
