"""Saliency: what a network would lose with a weight, judged before training. SNIP, GraSP and SynFlow.

Each criterion is a pure function. It runs `model` on copies of `state`, so that weights, batch-norm statistics and
mode of the model stay as they were. It returns a score per weight, on the CPU; a higher score means that the weight is
more worth keeping. Only the named prunable weights are scored and differentiated.

The papers score untrained networks, whose batch norm is the identity in inference mode. The kit scores pretrained
networks, whose batch norm is not.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fedtiny_lite.model.masks import Mask, apply_mask, global_top_mask, top_mask, uniform_counts
from fedtiny_lite.settings import check_choice

GRASP_TEMPERATURE = 200.0
SYNFLOW_STEPS = 100
"""Pruning steps of SynFlow in its paper."""

Scores = dict[str, Tensor]
"""A score per prunable weight: parameter name -> tensor of the weight's shape."""


def snip_scores(
    model: nn.Module, state: Mapping[str, Tensor], names: Iterable[str], images: Tensor, labels: Tensor
) -> Scores:
    """Connection sensitivity |g * w|, float32, where g is the gradient of the mean cross-entropy on one batch.

    Source: Lee et al., "SNIP" (ICLR 2019, arXiv 1810.02340). The score is the derivative of the loss by a multiplier of
    the weight. The paper's division by the sum of all scores is left out, as it changes no order. `images`: float
    [B, C, H, W]; `labels`: int64 [B]. Batch norm uses the batch's statistics, as in the training step that follows.
    The authors' code (namhoonlee/snip-public) uses inference mode, which is the identity in an untrained network.
    """
    weights, logits = _forward(model, state, names, images, training=True)
    gradients = torch.autograd.grad(F.cross_entropy(logits, labels), list(weights.values()))
    return _products(weights, gradients, torch.abs)


def grasp_scores(
    model: nn.Module, state: Mapping[str, Tensor], names: Iterable[str], images: Tensor, labels: Tensor
) -> Scores:
    """w * Hg, float32 of either sign: how much of the gradient's norm depends on a weight.

    Source: Wang et al., "GraSP" (ICLR 2020, arXiv 2002.07376). To first order, removing w changes g'g by 2 * -w * Hg.
    The paper prunes the weights of *highest* -w * Hg, whose removal raises the gradient's norm or lowers it least. This
    function returns the negative, w * Hg, and the weights of highest score are kept. These are the same weights as in
    the authors' code (alecwangcq/GraSP). g and H are gradient and Hessian of the mean cross-entropy of logits / 200
    with respect to the named weights. Arguments are as in `snip_scores`. Batch norm uses the batch's statistics, as in
    the authors' code.
    """
    weights, logits = _forward(model, state, names, images, training=True)
    leaves = list(weights.values())
    loss = F.cross_entropy(logits / GRASP_TEMPERATURE, labels)
    gradients = torch.autograd.grad(loss, leaves, create_graph=True)
    # The derivative of g'c by w is Hc for a constant c; with c = g it is Hg, and H is never formed.
    norm = sum(((gradient * gradient.detach()).sum() for gradient in gradients), start=torch.zeros(()))
    return _products(weights, torch.autograd.grad(norm, leaves))


def synflow_scores(
    model: nn.Module, state: Mapping[str, Tensor], names: Iterable[str], image_shape: Iterable[int]
) -> Scores:
    """Synaptic flow |dR/dw * w|, R the sum of outputs for an image of ones, every parameter at its absolute value.

    Source: Tanaka et al., "SynFlow" (NeurIPS 2020, arXiv 2006.05467). The criterion needs no data. `image_shape`:
    (C, H, W). The model runs in inference mode, as in the authors' code (ganguli-lab/Synaptic-Flow). Running means
    count as 0, as they are in an untrained network: a mean that is subtracted could make a signal negative, and a ReLU
    would cut the flow. The scores are computed in float64, because |w| without normalisation multiplies up with depth.

    The paper proves that pruning in enough steps empties no layer. The proof needs that all flow passes each layer, as
    in a network of layers in a row. A shortcut bypasses the convolutions of its unit, and these can be emptied while
    the network still conducts. In 100 steps to density 0.01, ResNet18 of width 8 from random weights loses 2 of its 20
    prunable layers on 32x32 images and 6 on 8x8 images; `cnn` and `vgg11` of width 8 lose none.
    """
    positive = {name: torch.zeros_like(t) if name.endswith("running_mean") else t.abs() for name, t in state.items()}
    positive = {name: tensor.double() for name, tensor in positive.items()}
    device = next(model.parameters()).device
    ones = torch.ones(1, *image_shape, dtype=torch.float64, device=device)
    weights, outputs = _forward(model, positive, names, ones, training=False)
    return _products(weights, torch.autograd.grad(outputs.sum(), list(weights.values())), torch.abs)


def _forward(
    model: nn.Module, state: Mapping[str, Tensor], names: Iterable[str], images: Tensor, training: bool
) -> tuple[dict[str, Tensor], Tensor]:
    """Copies of the named weights, and the logits computed with them. The model and the state do not change."""
    tensors = {n: t.detach().to(images.device, copy=True) for n, t in {**dict(model.named_buffers()), **state}.items()}
    weights = {name: tensors[name].requires_grad_() for name in names}
    was_training = model.training
    model.train(training)
    logits = functional_call(model, tensors, (images,))
    model.train(was_training)
    return weights, logits


def _products(weights: Mapping[str, Tensor], factors: Iterable[Tensor], of: Callable = lambda tensor: tensor) -> Scores:
    return {name: of(w.detach() * f).cpu() for (name, w), f in zip(weights.items(), factors, strict=True)}


# --- from scores to masks ---------------------------------------------------------------------------------


def saliency_mask(scores: Scores, budget: int, scope: str, progress: float = 1.0) -> Mask:
    """The mask of the best-scored weights, `budget` of them at the end of pruning; of equal scores the first.

    `scope`: "global" keeps the best weights of all layers together, so that a layer may keep nothing; "layer" keeps the
    best weights of each layer, all layers at the same density. `progress`: how far pruning is, in (0, 1]. The density
    is the final density to the power of `progress`: the exponential schedule of SynFlow (Tanaka et al., algorithm 1).
    Example: a final density of 0.01 is 0.1 at progress 0.5. Raises ValueError for another scope.
    """
    check_choice("scope", scope, ("global", "layer"))
    sizes = {name: score.numel() for name, score in scores.items()}
    if scope == "global":
        return global_top_mask(scores, _scheduled(sum(sizes.values()), budget, progress))
    return mask_of_counts(scores, uniform_counts(sizes, budget), progress)


def mask_of_counts(scores: Scores, counts: Mapping[str, int], progress: float = 1.0) -> Mask:
    """The mask of the `counts[name]` best-scored weights of each layer at the end of pruning; see `saliency_mask`."""
    return top_mask(scores, {n: _scheduled(scores[n].numel(), count, progress) for n, count in counts.items()})


def _scheduled(total: int, final: int, progress: float) -> int:
    return round(total * (final / total) ** progress)


def iterated_mask(
    state: Mapping[str, Tensor], score: Callable[[Mapping[str, Tensor]], Scores], budget: int, steps: int, scope: str
) -> Mask:
    """The mask after `steps` steps of pruning, each by scores under the mask of the step before.

    `score(state)` returns the scores under a masked state; `budget` and `scope` are as in `saliency_mask`.
    """
    return pruned_in_steps(state, score, lambda scores, progress: saliency_mask(scores, budget, scope, progress), steps)


def pruned_in_steps(
    state: Mapping[str, Tensor],
    score: Callable[[Mapping[str, Tensor]], Scores],
    prune: Callable[[Scores, float], Mask],
    steps: int,
) -> Mask:
    """The last of `steps` masks; prune(scores, progress) is the next mask, by scores under the mask of the step before.

    A pruned weight never returns, although its score of 0 may exceed the negative score of a kept weight.
    """
    state, mask = {name: tensor.clone() for name, tensor in state.items()}, Mask({})
    for step in range(1, steps + 1):
        scores = score(state)
        if mask:
            scores = {name: values.masked_fill(mask.pruned[name], -torch.inf) for name, values in scores.items()}
        mask = prune(scores, step / steps)
        apply_mask(state, mask)
    return mask
