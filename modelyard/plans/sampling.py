"""Which files a verification reads when it is to read a share of the bytes only. Pure.

Files stand on a circle of all bytes, in the order of their names' hashes, and each seed owns the arc that follows the one of the
seed before: n runs with successive seeds read every file once where a share of 1/n is asked for. Hashing the names keeps every
file's place on the circle about the same when others come and go.
"""

import hashlib
from collections.abc import Sequence
from fractions import Fraction


def chosen(files: Sequence[tuple[str, int]], share: float, seed: int) -> list[int]:
    """The indexes of those of ``files`` (name, size) that ``seed`` reads: all that begin on its arc of ``share`` of all bytes."""
    order = sorted(range(len(files)), key=lambda index: hashlib.sha256(files[index][0].encode(errors="surrogateescape")).digest())
    total = sum(size for _, size in files)
    if share >= 1 or not total:
        return order
    arc = Fraction(share).limit_denominator(10**6) * total  # exact, also for 0.1: one arc ends where the next begins
    begin = arc * seed % total
    picked, position = [], 0
    for index in order:
        if (position - begin) % total < arc:
            picked.append(index)
        position += files[index][1]
    return picked
