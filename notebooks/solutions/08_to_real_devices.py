"""Solutions of the exercises in notebook 08. Try yours first; `check` says what is wrong with it."""

import math


def lacks(versions, held):
    return (versions > held) | (held > versions.max())


def question_bytes(keep, others):
    kept, n = int(keep.sum()), len(keep)
    bits = min(n, kept * math.ceil(math.log2(n)))
    return 4 * (kept + others) + 7 + -(-bits // 8)


def folded(seconds, passed, timeout, min_replies):
    accepted = (seconds <= timeout) & passed
    enough = accepted.sum() >= max(len(seconds) / 2, min(min_replies, len(seconds)))
    return accepted & enough
