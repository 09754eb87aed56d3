"""Official weights into our models: strict, and clear about what does not fit."""

from collections.abc import Mapping

from torch import Tensor

from uniformer_bench.errors import UbenchError
from uniformer_bench.model.uniformer import UniFormer


def load_official_state_dict(model: UniFormer, state_dict: Mapping[str, Tensor]) -> None:
    """Copies weights under official names into `model`.

    2D weights of the image models fit where the kernel's depth is one. Raises UbenchError listing
    what is missing, unexpected and of another shape; the model is then unchanged.
    """
    own = model.state_dict()
    given = {name: _to_shape(value, own.get(name)) for name, value in state_dict.items()}
    shapes = {n: (tuple(given[n].shape), tuple(own[n].shape)) for n in own.keys() & given.keys()}
    problems = _list("missing", own.keys() - given.keys()) + _list("unexpected", given.keys() - own.keys())
    problems += _list("of another shape", {f"{n} {a} for {b}" for n, (a, b) in shapes.items() if a != b})
    if problems:
        own_name = f"{model.spec.pattern} {model.spec.id}"
        raise UbenchError(f"the weights must be those of {own_name}, got {'; '.join(problems)}")
    model.load_state_dict(given)


def _to_shape(value: Tensor, own: Tensor | None) -> Tensor:
    """A 2D convolution's weight (or scale) gets the depth axis of the 3D one, where that is one long."""
    if own is not None and value.ndim == own.ndim - 1 and value.numel() == own.numel():
        return value.reshape(own.shape)
    return value


def _list(what: str, names: set[str]) -> list[str]:
    if not names:
        return []
    shown = sorted(names)[:4]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return [f"{len(names)} {what} ({', '.join(shown)}{more})"]
