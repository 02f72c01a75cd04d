"""Saliency: what a network would lose with a weight, judged before training. SNIP, GraSP and SynFlow.

Each criterion is a pure function: it runs `model` on copies of `state`, so that weights, batch-norm statistics and
mode stay as they were, and returns a score per weight on the CPU, a higher one for a weight more worth keeping. Only
the named prunable weights are scored and differentiated. The papers score untrained networks, here the weights are
pretrained: their batch norm is the identity in inference mode, which pretrained statistics are not.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fedtiny_lite.model.masks import Mask, apply_mask, global_top_mask, top_mask, uniform_counts

GRASP_TEMPERATURE = 200.0

Scores = dict[str, Tensor]
"""A score per prunable weight: parameter name -> tensor of the weight's shape."""


def snip_scores(
    model: nn.Module, state: Mapping[str, Tensor], names: Iterable[str], images: Tensor, labels: Tensor
) -> Scores:
    """Connection sensitivity |g * w|, g the gradient of the mean cross-entropy on one batch; float32.

    Lee et al., "SNIP" (ICLR 2019, arXiv 1810.02340): the derivative of the loss by a multiplier of the weight. Its
    division by the sum of all scores is left out, as it changes no order. `images`: float [B, C, H, W], `labels`:
    int64 [B]. Batch norm uses the batch's statistics, as in the training step that follows; the authors' code
    (namhoonlee/snip-public) uses inference mode, see above.
    """
    weights, logits = _forward(model, state, names, images, training=True)
    gradients = torch.autograd.grad(F.cross_entropy(logits, labels), list(weights.values()))
    return _products(weights, gradients, torch.abs)


def grasp_scores(
    model: nn.Module, state: Mapping[str, Tensor], names: Iterable[str], images: Tensor, labels: Tensor
) -> Scores:
    """w * Hg: how much of the gradient's norm hangs on a weight; float32, of either sign.

    Wang et al., "GraSP" (ICLR 2020, arXiv 2002.07376): removing w changes g'g by 2 * -w * Hg to first order, so the
    weights of *highest* -w * Hg are pruned, whose removal reduces the gradient's norm least or raises it. This returns
    the negative, and the highest are kept: the same weights as in the authors' code (alecwangcq/GraSP). g and H are
    those of the mean cross-entropy of logits / 200 with respect to the named weights. Arguments and batch norm as in
    `snip_scores`, here like the authors.
    """
    weights, logits = _forward(model, state, names, images, training=True)
    leaves = list(weights.values())
    loss = F.cross_entropy(logits / GRASP_TEMPERATURE, labels)
    gradients = torch.autograd.grad(loss, leaves, create_graph=True)
    norm = sum((gradient * gradient.detach()).sum() for gradient in gradients)
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
    """Copies of the named weights, and the logits computed with them; nothing of the model or the state changes."""
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
    """Keep the best-scored weights, at the end of pruning `budget` of them; of equal scores the first.

    `scope`: "global" = the best of all layers together, which may leave a layer nothing; "layer" = the best of each
    layer, all at the same density. `progress`: how far pruning is, in (0, 1]: density is the final one to this power,
    the exponential schedule of SynFlow (Tanaka et al., algorithm 1).
    """
    sizes = {name: score.numel() for name, score in scores.items()}
    if scope == "global":
        return global_top_mask(scores, _scheduled(sum(sizes.values()), budget, progress))
    counts = uniform_counts(sizes, budget)
    return top_mask(scores, {name: _scheduled(sizes[name], count, progress) for name, count in counts.items()})


def _scheduled(total: int, final: int, progress: float) -> int:
    return round(total * (final / total) ** progress)


def iterated_mask(
    state: Mapping[str, Tensor], score: Callable[[Mapping[str, Tensor]], Scores], budget: int, steps: int, scope: str
) -> Mask:
    """Prune in `steps` steps, each with the scores of what the steps before have kept; see `saliency_mask`.

    `score(state)` gives the scores under the masked state. A weight once pruned never returns, though its score of 0
    may exceed a kept one's.
    """
    state, mask = {name: tensor.clone() for name, tensor in state.items()}, None
    for step in range(1, steps + 1):
        scores = score(state)
        if mask is not None:
            scores = {name: values.masked_fill(mask.pruned[name], -torch.inf) for name, values in scores.items()}
        mask = saliency_mask(scores, budget, scope, step / steps)
        apply_mask(state, mask)
    return mask
