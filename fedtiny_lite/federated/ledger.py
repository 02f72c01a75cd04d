"""What the server keeps of each client: the mask it holds, by version, and how many images it has.

The versions of a mask count up from 1. A layer carries the version in which it last changed, so a client that holds
version 3 lacks the layers that carry 4 or more. Example: two clients take part in round 1, whose fold changes layer
`conv2` (version 2), and a third joins in round 2. In its last reply it said that it holds version 1, so it is sent
`conv2` with the weights.
A client answers with the version that it held when it read the question; a reply under another version is refused,
because its packed weights would belong to other positions.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from fedtiny_lite.federated.checks import inspect, read_whole_mask, reason, too_long, update_norm, whole_number
from fedtiny_lite.federated.formats import encode_mask
from fedtiny_lite.federated.memory import NOTHING
from fedtiny_lite.federated.messages import Message, encode_state, pack, unpack
from fedtiny_lite.federated.protocol import Exchange, Lost, Method
from fedtiny_lite.federated.server import Server
from fedtiny_lite.federated.state import Question, State, masked_start
from fedtiny_lite.model.masks import Mask

SHARED = "all clients"
Versions = dict[str, int]
"""Layer -> the version in which its mask last changed."""


@dataclass(frozen=True)
class Ledger:
    """`versions`: those of the mask that all clients share, under SHARED, or of each client's own, under its number.

    `held`: the version that each client said it holds last; clients that never answered hold none. `samples`: the
    images of each client, as it said first. `memories`: the digest of what each client remembered after its last
    answer (`federated.memory`).
    """

    versions: Mapping[str, Versions] = field(default_factory=dict)
    held: Mapping[int, int] = field(default_factory=dict)
    samples: Mapping[int, int] = field(default_factory=dict)
    memories: Mapping[int, str] = field(default_factory=dict)


def forget(ledger: Ledger, clients: Collection[int]) -> Ledger:
    """The ledger where these clients hold no mask and remember nothing."""
    held = {k: version for k, version in ledger.held.items() if k not in clients}
    memories = {k: digest for k, digest in ledger.memories.items() if k not in clients}
    return replace(ledger, held=held, memories=memories)


def who_knows_nothing(ledger: Ledger, clients: Collection[int]) -> list[int]:
    """Those of these clients that remember nothing, once any client was heard: they missed what went before."""
    return [k for k in clients if ledger.memories and ledger.memories.get(k, NOTHING) == NOTHING]


def lineage(method: Method, k: int) -> str:
    """Whose mask client k holds."""
    return str(k) if method.mask_of else SHARED


def mask_for(method: Method, server: Server, state: State, k: int) -> Mask:
    """The mask that client k is to hold: its own, where the method has one per client."""
    return method.mask_of(server, state, k) if method.mask_of else state.mask


def lacking(versions: Versions, held: int) -> list[str]:
    """The layers that a client which holds version `held` lacks; all, if that is none or not one of the server's."""
    if not 0 < held <= max(versions.values()):
        return list(versions)
    return [name for name, version in versions.items() if version > held]


def begin(method: Method, server: Server, state: State, samples: Mapping[int, int]) -> Ledger:
    """The ledger before the first exchange: every mask at version 1, and no client holds one."""
    return Ledger(first_versions(method, server.task.config.clients, state.mask), {}, samples)


def first_versions(method: Method, clients: int, layers: Iterable[str]) -> dict[str, Versions]:
    """Every mask at version 1."""
    return dict.fromkeys((lineage(method, k) for k in range(clients)), dict.fromkeys(layers, 1))


def note_changes(method: Method, server: Server, before: State, after: State, ledger: Ledger) -> Ledger:
    """The ledger after a fold: a layer whose mask is another one now carries a new version."""
    versions = dict(ledger.versions)
    exchanged = [k for k, held in after.of_clients.items() if held is not before.of_clients.get(k)]
    for k in exchanged if method.mask_of else (0,):
        old, new = (mask_for(method, server, state, k) for state in (before, after))
        if old is not new:
            versions[lineage(method, k)] = _renumbered(versions[lineage(method, k)], old, new)
    return replace(ledger, versions=versions)


def _renumbered(versions: Versions, old: Mask, new: Mask) -> Versions:
    following = max(versions.values()) + 1
    return {name: versions[name] if bool((old[name] == new[name]).all()) else following for name in versions}


# --- what is sent -----------------------------------------------------------------------------------------


def address(
    method: Method, server: Server, state: State, ledger: Ledger, question: Question, clients: list[int]
) -> dict[int, bytes]:
    """The packed question for each client, with the layers of its mask that it lacks; equal ones are packed once.

    Clients with masks of their own of which the server keeps nothing yet share one mask and its versions.
    """
    messages, packed = {}, {}
    for k in clients:
        held = ledger.held.get(k, 0)
        key = id(state.of_clients.get(k)) if method.mask_of else None, held
        if key not in packed:
            mask, versions = mask_for(method, server, state, k), ledger.versions[lineage(method, k)]
            packed[key] = _message(server, state, mask, versions, held, question)
        messages[k] = packed[key]
    return messages


def _message(server: Server, state: State, mask: Mask, versions: Versions, held: int, question: Question) -> bytes:
    tensors: dict[str, Tensor] = dict(question.tensors)
    if question.with_model:
        weights = state.weights if mask is state.mask else masked_start(state.weights, mask).weights
        tensors["weights"] = encode_state(weights, mask)
    layers = lacking(versions, held)
    if layers:
        tensors["mask"] = encode_mask({name: mask[name] for name in layers}, list(server.task.mask_shapes))
    return pack(tensors, **question.meta, version=max(versions.values()), known=held)


# --- what comes back --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Accepted:
    """The replies that passed, in order of client number, why each of the others did not, and why none came.

    `undone`: the clients whose updates are too long. They did as they were asked, so that their next question is to be
    answered from what they held and remembered before this one: FL-PQSU's clients compare their loss with that of the
    last upload which counts.
    """

    replies: list[Message]
    rejections: dict[int, str]
    lost: dict[int, str]
    undone: Collection[int]
    ledger: Ledger


def accept(
    method: Method,
    exchange: Exchange,
    server: Server,
    state: State,
    r: int,
    ledger: Ledger,
    packed: Mapping[int, bytes | Lost],
) -> Accepted:
    """Checks every reply to a method's exchange, the one place where that is done.

    `packed`: client number -> the bytes that came, if any did. A reply that fails a check is left out, and one that
    moved too far where `update_limit` is set. Raises FloatingPointError, with the reasons, when fewer than half of
    those asked are left, or fewer than `min_replies`: the average of a few is not the federation's.
    """
    replies, held, samples = [], dict(ledger.held), dict(ledger.samples)
    lost = {k: found.why for k, found in sorted(packed.items()) if isinstance(found, Lost)}
    rejections: dict[int, str] = {}
    for k, data in sorted((k, found) for k, found in packed.items() if not isinstance(found, Lost)):
        try:
            reply = unpack(data)
            held[k] = _said(reply, "holds")
            _check_version(reply, max(ledger.versions[lineage(method, k)].values()))
            given = whole_number(reply.meta, "samples", low=1)
            if samples.setdefault(k, given) != given:
                raise ValueError(f"samples is {given}, and was {samples[k]} before")
            inspect(reply, exchange.expect(server, state, r, k, reply))
            replies.append(replace(reply, meta=reply.meta | {"client": k}))
        except (ValueError, KeyError) as error:
            rejections[k] = reason(error)
    long = _too_long(method, exchange, server, state, replies)
    rejections = dict(sorted((rejections | long).items()))
    replies = [reply for reply in replies if reply.meta["client"] not in long]
    if len(replies) < needed(len(packed), server.task.config.min_replies):
        raise FloatingPointError(too_few(rejections, lost, len(packed)))
    held = {k: version for k, version in held.items() if k not in long}
    held |= {k: version for k, version in ledger.held.items() if k in long}
    return Accepted(replies, rejections, lost, long.keys(), replace(ledger, held=held, samples=samples))


def needed(asked: int, min_replies: int) -> float:
    """Replies that an exchange needs at least: half of those asked, and `min_replies`, but never more than asked."""
    return max(asked / 2, min(min_replies, asked))


def _too_long(
    method: Method, exchange: Exchange, server: Server, state: State, replies: list[Message]
) -> dict[int, str]:
    """The clients whose weights moved too far in this exchange, if there is a limit, each with the reason."""
    limit, task, norms = server.task.config.update_limit, server.task, {}
    for reply in replies if limit else ():
        k, own = reply.meta["client"], reply.tensors.get("mask")
        mask = mask_for(method, server, state, k) if own is None else read_whole_mask(task, own)
        sent = exchange.weights_in(task, mask, reply)
        if sent is not None:
            norms[k] = update_norm(state.weights, mask, sent)
    return too_long(norms, limit) if norms else {}


def _said(reply: Message, name: str) -> int:
    """A version that a client says; 0, none, where it says nothing sensible."""
    try:
        return whole_number(reply.meta, name)
    except ValueError:
        return 0


def _check_version(reply: Message, sent: int) -> None:
    answered = _said(reply, "version")
    if answered != sent:
        raise ValueError(f"it answers under version {answered} of the mask, and version {sent} was sent")


def too_few(rejections: Mapping[int, str], lost: Mapping[int, str], asked: int) -> str:
    """What became of replies when too few passed, with the reasons of three; each maps a client to its reason."""
    counts = {"were rejected": len(rejections), "did not come": len(lost)}
    parts = [f"{count} of {asked} replies {what}" for what, count in counts.items() if count]
    why = [f"client {k}: {reason}" for k, reason in [*rejections.items(), *lost.items()]]
    more = f" and {len(why) - 3} more" if len(why) > 3 else ""
    hint = "; where numbers are NaN or infinite, a lower learning rate usually helps" if rejections else ""
    return f"{' and '.join(parts)} ({'; '.join(why[:3])}{more}){hint}"
