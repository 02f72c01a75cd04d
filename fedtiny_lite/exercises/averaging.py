"""Exercises of notebook 00: density, a masked step, the clients' average, and what a message holds."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from fedtiny_lite.exercises.judging import Exercise
from fedtiny_lite.federated.messages import encode_state
from fedtiny_lite.model.masks import Mask, apply_mask

Masks = Sequence[Tensor]


# --- density ----------------------------------------------------------------------------------------------


def _layers(generator: Generator) -> tuple[list[Tensor]]:
    """Masks of layers that differ in size and in density."""
    return ([torch.rand(size, generator=generator) < 1 / size[0] for size in ((2, 3), (4, 9), (8, 20))],)


def _density(masks: Masks) -> float:
    return Mask({str(number): keep for number, keep in enumerate(masks)}).prunable_density


def _mean_of_layers(masks: Masks) -> Tensor:
    """Your density is the mean of the layers' densities; a large layer counts more, so divide the sums."""
    return torch.stack([keep.float().mean() for keep in masks]).mean()


def _sparsity(masks: Masks) -> float:
    """You count the pruned weights, which gives the sparsity; density is kept / all."""
    return 1 - _density(masks)


def _kept_alone(masks: Masks) -> int:
    """You count the kept weights; divide them by all weights."""
    return sum(int(keep.sum()) for keep in masks)


def _odds(masks: Masks) -> float:
    """You divide kept by pruned weights; divide by all of them."""
    return _density(masks) / (1 - _density(masks))


_DENSITY = Exercise(
    inputs=_layers,
    right=_density,
    parts=("density",),
    mistakes=(_mean_of_layers, _sparsity, _kept_alone, _odds),
    hints=(
        "Add up the kept weights of all layers, add up all weights, and divide once.",
        "`keep.sum()` counts True, `keep.numel()` counts all.",
    ),
)


# --- one masked step --------------------------------------------------------------------------------------

Step = tuple[Tensor, Tensor, Tensor, Tensor, float, float]


def _step(generator: Generator) -> Step:
    """A masked weight, some kept ones of which are 0, and a velocity and a gradient that are not masked."""
    keep, trained = torch.rand(4, 6, generator=generator) < 0.5, torch.rand(4, 6, generator=generator) < 0.8
    weight, velocity, gradient = torch.randn(3, 4, 6, generator=generator)
    return weight * keep * trained, velocity, gradient, keep, 0.1, 0.9


def _masked_step(
    weight: Tensor, velocity: Tensor, gradient: Tensor, keep: Tensor, lr: float, momentum: float
) -> Tensor:
    parameter = weight.clone().requires_grad_()
    optimiser = torch.optim.SGD([parameter], lr, momentum)
    optimiser.state[parameter]["momentum_buffer"], parameter.grad = velocity.clone(), gradient.clone()
    optimiser.step()
    apply_mask({"weight": parameter}, Mask({"weight": keep}))
    return parameter.detach()


def _unmasked(w: Tensor, v: Tensor, g: Tensor, keep: Tensor, lr: float, momentum: float) -> Tensor:
    """Your pruned weights move away from 0; apply the mask after the step."""
    return w - lr * (momentum * v + g)


def _gradient_masked(w: Tensor, v: Tensor, g: Tensor, keep: Tensor, lr: float, momentum: float) -> Tensor:
    """Your mask is on the gradient, but momentum still moves pruned weights; mask the weights after the step."""
    return w - lr * (momentum * v + g * keep)


def _guessed(w: Tensor, v: Tensor, g: Tensor, keep: Tensor, lr: float, momentum: float) -> Tensor:
    """You take weights that are not 0 for the kept ones; a kept weight may be 0, as one that just grew: use `keep`."""
    return (w - lr * (momentum * v + g)) * (w != 0)


def _uphill(w: Tensor, v: Tensor, g: Tensor, keep: Tensor, lr: float, momentum: float) -> Tensor:
    """Your step goes uphill; subtract."""
    return (w + lr * (momentum * v + g)) * keep


def _no_momentum(w: Tensor, v: Tensor, g: Tensor, keep: Tensor, lr: float, momentum: float) -> Tensor:
    """Your step forgets the velocity; add momentum times it to the gradient."""
    return (w - lr * g) * keep


def _damped(w: Tensor, v: Tensor, g: Tensor, keep: Tensor, lr: float, momentum: float) -> Tensor:
    """Your gradient is scaled by 1 − momentum; torch's SGD adds it whole."""
    return (w - lr * (momentum * v + (1 - momentum) * g)) * keep


def _other_half(w: Tensor, v: Tensor, g: Tensor, keep: Tensor, lr: float, momentum: float) -> Tensor:
    """Your mask removes the kept weights; True means kept."""
    return (w - lr * (momentum * v + g)) * ~keep


_MASKED_STEP = Exercise(
    inputs=_step,
    right=_masked_step,
    parts=("weight",),
    mistakes=(_unmasked, _gradient_masked, _guessed, _uphill, _no_momentum, _damped, _other_half),
    hints=(
        "New velocity: momentum · old velocity + gradient. Step: minus lr · velocity. The mask comes last.",
        "`(weight - lr * (momentum * velocity + gradient)) * keep`",
    ),
)


# --- the average of the clients ---------------------------------------------------------------------------


def _clients(generator: Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(4, 5, generator=generator), torch.randint(10, 300, (4,), generator=generator)


def _average(weights: Tensor, sizes: Tensor) -> Tensor:
    return (weights.double() * sizes[:, None]).sum(0) / sizes.sum()


def _alike(weights: Tensor, sizes: Tensor) -> Tensor:
    """Your average counts every client alike; weigh each by its number of images."""
    return weights.mean(0)


def _summed(weights: Tensor, sizes: Tensor) -> Tensor:
    """Your weights of clients do not sum to one; divide by the number of all images."""
    return (weights * sizes[:, None]).sum(0)


def _divided_twice(weights: Tensor, sizes: Tensor) -> Tensor:
    """Your average is divided by the number of clients too; the shares sum to one already."""
    return (_average(weights, sizes) / len(sizes)).float()


def _last(weights: Tensor, sizes: Tensor) -> Tensor:
    """You return the last client's weights; does the sum start anew inside the loop?"""
    return weights[-1]


def _over_weights(weights: Tensor, sizes: Tensor) -> Tensor:
    """You average over the weights of each client; average over the clients, dimension 0."""
    return weights.mean(1)


_AVERAGE = Exercise(
    inputs=_clients,
    right=_average,
    parts=("average",),
    mistakes=(_alike, _summed, _divided_twice, _last, _over_weights),
    hints=(
        "Client k counts with the share sizes[k] / (sum of sizes).",
        "`share = sizes / sizes.sum()` is [K]; `share @ weights` sums over clients.",
    ),
)


# --- what a message holds ---------------------------------------------------------------------------------

Tensors = Sequence[Tensor]


def _state(generator: Generator) -> tuple[list[Tensor], list[Tensor]]:
    """A masked layer, in which kept weights are 0 as if just grown, and a bias, whose mask keeps all."""
    keep = torch.rand(4, 6, generator=generator) < 0.5
    keep[0, :2] = True
    weight = torch.randn(4, 6, generator=generator) * keep
    weight[0, :2] = 0
    return [weight, torch.randn(3, generator=generator)], [keep, torch.ones(3, dtype=torch.bool)]


def _kept_values(tensors: Tensors, masks: Masks) -> Tensor:
    names = [str(number) for number in range(len(tensors))]
    mask = Mask(dict(zip(names, masks, strict=True)))
    return encode_state(dict(zip(names, tensors, strict=True)), mask)


def _everything(tensors: Tensors, masks: Masks) -> Tensor:
    """Your message holds the pruned weights too; the receiver knows that they are 0."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def _not_zero(tensors: Tensors, masks: Masks) -> Tensor:
    """Your message leaves out kept weights that are 0, as just grown ones are; select by the mask, not by the value."""
    return torch.cat([tensor[tensor != 0] for tensor in tensors])


def _pruned(tensors: Tensors, masks: Masks) -> Tensor:
    """Your message holds what is pruned; True in the mask means kept."""
    return torch.cat([tensor[~keep] for tensor, keep in zip(tensors, masks, strict=True)])


def _first_only(tensors: Tensors, masks: Masks) -> Tensor:
    """Your message holds the first tensor alone; join the kept values of all."""
    return tensors[0][masks[0]]


_KEPT_VALUES = Exercise(
    inputs=_state,
    right=_kept_values,
    parts=("message",),
    mistakes=(_everything, _not_zero, _pruned, _first_only),
    hints=(
        "A bool mask as an index selects: `tensor[keep]` is one-dimensional.",
        "`torch.cat([...])` joins the kept values of all tensors; `zip(tensors, masks)` goes through both.",
    ),
)

EXERCISES = {
    "density": _DENSITY,
    "masked_step": _MASKED_STEP,
    "average": _AVERAGE,
    "kept_values": _KEPT_VALUES,
}
