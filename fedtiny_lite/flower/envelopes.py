"""A packed message as a Flower record, and back: one array of bytes, and plain values about it."""

from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

SURVEY, EXCHANGE, WEIGH = "query.survey", "train.exchange", "evaluate.weigh"
"""The kinds of Flower messages: who a node is and how its pixels are spread; an exchange; the clients' own accuracy."""


def enclosed(data: bytes, **about: Any) -> RecordDict:
    """Bytes and plain values as the content of a Flower message. An array crosses faster than a value of bytes."""
    array = ArrayRecord([np.frombuffer(data, dtype=np.uint8)])
    return RecordDict({"message": array, "about": ConfigRecord(about)})


def opened(content: RecordDict) -> tuple[bytes, dict[str, Any]]:
    """What `enclosed` was given. Raises ValueError for any other content."""
    try:
        [array] = content["message"].to_numpy_ndarrays()  # type: ignore[union-attr]
        about = dict(content["about"])
        kind = (array.dtype, array.ndim)
    except Exception as error:  # numpy reads what the other side sent, and the kind of error depends on it
        raise ValueError(f"a Flower message without bytes or values: {error!r}"[:500]) from error
    if kind != (np.uint8, 1):
        raise ValueError(f"the bytes of a Flower message are {array.dtype} {list(array.shape)}")
    return array.tobytes(), about
