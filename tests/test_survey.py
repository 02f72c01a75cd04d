"""The survey of pixels: sums by hand, equality with numpy over all images, any order, hostile replies."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtiny_lite.config import make_config
from fedtiny_lite.data.datasets import Split
from fedtiny_lite.federated.messages import pack
from fedtiny_lite.federated.protocol import Lost
from fedtiny_lite.federated.survey import answer_survey, normalisation, read_survey, sums_of_pixels
from fedtiny_lite.simulation.setup import build_federation, federate, hand_out

SHAPE = (2, 3, 3)


def split(images: int, seed: int = 0) -> Split:
    pixels = torch.randint(256, (images, *SHAPE), generator=torch.Generator().manual_seed(seed))
    return Split(pixels.to(torch.uint8), torch.zeros(images, dtype=torch.int64))


def test_sums_by_hand():
    images = torch.tensor([[[[0, 3]], [[255, 1]]]], dtype=torch.uint8)  # one image, two channels, 1 x 2 pixels
    sums = sums_of_pixels(images)
    assert sums["sums"].tolist() == [3, 256] and sums["squares"].tolist() == [9, 255**2 + 1]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_all_images_together_in_any_order_of_clients(sizes, random):
    splits = {k: split(size, seed=k) for k, size in enumerate(sizes)}
    clients = list(splits)
    random.shuffle(clients)
    pixels, samples, rejections = read_survey({k: answer_survey(splits[k]) for k in clients}, SHAPE, 1)
    together = np.concatenate([of_one.images.numpy() for of_one in splits.values()]) / 255
    assert np.allclose(pixels.mean, together.mean((0, 2, 3))) and np.allclose(pixels.std, together.std((0, 2, 3)))
    assert samples == dict(enumerate(sizes)) and rejections == {}
    assert pixels == read_survey({k: answer_survey(splits[k]) for k in splits}, SHAPE, 1)[0]


def test_one_grey_level_where_nothing_spreads():
    black = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    assert normalisation([sums_of_pixels(black)], 1, SHAPE).std == (1 / 255, 1 / 255)


def reply(samples: object = 1, **changed) -> bytes:
    tensors = {"sums": torch.tensor([90, 90]), "squares": torch.tensor([900, 900])}
    return pack(tensors | changed, samples=samples)


@pytest.mark.parametrize(
    "hostile",
    [
        b"no message",
        reply(samples=0),
        reply(samples=1.5),
        reply(samples=True),
        reply(sums=torch.tensor([-1, 90])),
        reply(sums=torch.tensor([90.0, 90.0])),
        reply(sums=torch.tensor([90])),
        reply(squares=torch.tensor([899, 900])),  # less than 9 equal pixels of 10 have
        reply(squares=torch.tensor([90 * 256, 900])),
        reply(labels=torch.tensor([1])),
    ],
)
def test_a_reply_that_no_images_can_give_is_rejected_with_a_reason(hostile):
    honest = {0: answer_survey(split(2)), 1: reply()}
    pixels, samples, rejections = read_survey({**honest, 2: hostile}, SHAPE, 1)
    assert list(rejections) == [2] and rejections[2]
    assert samples == {0: 2, 1: 1} and pixels == read_survey(honest, SHAPE, 1)[0]


def test_no_usable_reply_is_an_error():
    with pytest.raises(ValueError, match=r"^0 clients said .*, and 1 are needed: 1 of 2 replies were rejected and 1 "):
        read_survey({0: b"", 1: Lost("no route to it")}, SHAPE, 1)


def test_one_client_cannot_set_how_ten_normalise():
    """As in any exchange, half of those asked are needed, and `min_replies`."""
    config = make_config("smoke", clients=10, min_replies=8)
    holdings = hand_out(config)

    def answers(honest: int) -> dict[int, bytes]:
        return {k: answer_survey(split) if k < honest else b"" for k, split in enumerate(holdings.splits)}

    assert len(federate(config, holdings, lambda: answers(8)).samples) == 8
    with pytest.raises(ValueError, match=r"^7 clients said how their pixels are spread, and 8 are needed"):
        federate(config, holdings, lambda: answers(7))
    with pytest.raises(ValueError, match=r"^4 clients said how their pixels are spread, and 5 are needed"):
        federate(config.changed(min_replies=1), holdings, lambda: answers(4))


def test_a_run_normalises_by_its_clients_images_or_by_the_public_set():
    config = make_config("smoke")
    holdings = hand_out(config)
    private = torch.cat([of_one.images for of_one in holdings.splits]) / 255
    assert build_federation(config).task.pixels.mean == pytest.approx([float(private.mean())])
    public = holdings.public.images / 255
    other = build_federation(config.changed(pixel_statistics="server"))
    assert other.task.pixels.mean == pytest.approx([float(public.mean())], abs=1e-6)
    assert other.samples == {} and other.survey == {}


def test_the_survey_is_counted():
    survey = build_federation(make_config("smoke")).survey
    assert survey["asked"] == [0, 1, 2, 3] and survey["training_flops"] == 0
    assert survey["bytes_up"] > 4 * 16 and survey["bytes_down"] > 0 and survey["seconds"] > 0
