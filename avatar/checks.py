"""Shape checks with dimensions bound by name across arguments: one line at the door, one readable message."""

from __future__ import annotations

from torch import Tensor


def shape_text(tensor: Tensor) -> str:
    """Shape of a tensor as people write it: [2, 5, 3]."""
    return "[" + ", ".join(str(size) for size in tensor.shape) + "]"


def check_shapes(owner: str, **arguments: tuple[Tensor | None, str]) -> dict[str, int]:
    """Check tensors against shape patterns and return the sizes that the names stood for.

    A pattern is a string of dimensions: a number must match, a name binds at its first use and must match afterwards,
    a leading "..." allows any dimensions in front. `None` tensors are skipped.

        check_shapes("project", means=(means, "B N 3"), quats=(quats, "B N 4"))  ->  {"B": 1, "N": 15000}

    Raises ValueError naming owner, argument, what was expected and what came.
    """
    bound: dict[str, int] = {}
    for name, (tensor, pattern) in arguments.items():
        if tensor is None:
            continue
        dims = pattern.split()
        shape = tuple(tensor.shape)
        if dims and dims[0] == "...":
            dims = dims[1:]
            shape = shape[max(len(shape) - len(dims), 0) :]
        good = len(shape) == len(dims)
        if good:
            for dim, size in zip(dims, shape, strict=True):
                wanted = int(dim) if dim.isdigit() else bound.setdefault(dim, size)
                good = good and wanted == size
        if not good:
            known = [f"{dim} = {bound[dim]}" for dim in dims if dim in bound]
            where = f" with {', '.join(dict.fromkeys(known))}" if known else ""
            raise ValueError(f"{owner}: {name} must be [{', '.join(pattern.split())}]{where}, got {shape_text(tensor)}")
    return bound


def check_float(owner: str, **tensors: Tensor | None) -> None:
    """All given tensors share one floating dtype and one device. Raises TypeError or ValueError naming the odd one."""
    first: tuple[str, Tensor] | None = None
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not tensor.is_floating_point():
            raise TypeError(f"{owner}: {name} must be a floating tensor, got {tensor.dtype}")
        if first is None:
            first = (name, tensor)
        elif tensor.dtype != first[1].dtype or tensor.device != first[1].device:
            raise ValueError(
                f"{owner}: {name} is {tensor.dtype} on {tensor.device}, "
                f"but {first[0]} is {first[1].dtype} on {first[1].device}"
            )
