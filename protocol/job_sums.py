"""Whether a sum and those below it hang together as the question's tree says."""

from eigen.protocol.job_effects import Signed
from eigen.protocol.private_job import JobQuestion, parent
from eigen.protocol.types import Address


class BadSums(ValueError):
    """The sums do not hang together: whoever handed them over is at fault."""


def seat_of(question: JobQuestion, trainer: Address) -> int | None:
    """The seat that a trainer has in a question."""
    for index, seat in enumerate(question.seats):
        if seat.trainer == trainer:
            return index
    return None


def covered(question: JobQuestion, sums: tuple[Signed, ...]) -> frozenset[int]:
    """The shards whose gradients are in the first of these sums.

    Each sum's inputs must be totals of other sums here, made by the seats below its maker's, and
    every sum must be used once. Raises `BadSums`.
    """
    by_author = {signed.author: signed for signed in sums}
    if len(by_author) != len(sums):
        raise BadSums("two sums of one trainer")
    for signed in sums:
        made = signed.sum
        if (made.job, made.round, made.serial) != (question.job, question.round, question.serial):
            raise BadSums("a sum of another question")
        if seat_of(question, signed.author) is None:
            raise BadSums("a sum of a trainer without a seat")
    used: set[Address] = set()
    shards: list[int] = []
    pending = [sums[0]]
    while pending:
        signed = pending.pop()
        used.add(signed.author)
        index = seat_of(question, signed.author)
        assert index is not None
        shards += question.seats[index].shards
        if not signed.sum.inputs and signed.sum.total != signed.sum.own:
            raise BadSums("a total of one gradient that is another")
        below = [
            other
            for other in sums
            if (seat := seat_of(question, other.author)) is not None and parent(seat) == index
        ]
        for total in signed.sum.inputs:
            found = [other for other in below if other.sum.total == total]
            if not found or found[0].author in used:
                raise BadSums("a sum with an input that nobody below it made")
            used.add(found[0].author)
            pending.append(found[0])
    if len(used) != len(sums):
        raise BadSums("sums that are in no other")
    return frozenset(shards)
