"""Near duplicates: rows whose three-word sequences are nearly the same, by MinHash.

Of each row 128 bytes are kept: the lowest byte of each of 128 minima. Rows that agree in all 8
bytes of one of 16 bands are compared (so two rows at a similarity of 0.85 miss each other once in
170 times), and their similarity is estimated from all 128. What is kept is a sample once there are
too many rows: those whose content has the lowest hashes, so that order does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from runner.training.checks.thresholds import NEAR, NEAR_ROWS

PERMUTATIONS = 128
_BAND = 8  # bytes: one 64-bit number
_SEED = 42  # of the permutations: the same in every process
_CHANCE = 1 / 256  # that two lowest bytes agree where the minima do not
_MIX = tuple(np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))
"""Odd numbers that spread three words' hashes over one (those of SplitMix64 and xxHash)."""
_PAIRS_AT_ONCE = 100_000  # compared at a time: 25 MB

SIGNED = np.dtype(
    [("key", np.uint64), ("number", np.int64), ("signature", np.uint8, (PERMUTATIONS,))]
)
"""One row's signature: the hash of its content, its number, the bytes."""


def sign(words: Sequence[Sequence[str]], numbers: Sequence[int], keys: Sequence[int]) -> np.ndarray:
    """Give the signatures of rows.

    Args:
        words: each row's words, three at least.
        numbers: each row's number.
        keys: the hash of each row's content.
    """
    from rensa import RMinHash

    signed: np.ndarray = np.zeros(len(words), dtype=SIGNED)
    if not words:
        return signed
    parts = []
    for hashes in RMinHash.hash_token_sets(words):
        h = np.array(hashes, dtype=np.uint64)
        parts.append((h[:-2] * _MIX[0]) ^ (h[1:-1] * _MIX[1]) ^ (h[2:] * _MIX[2]))
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.uint64)
    flat = np.concatenate(parts)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, PERMUTATIONS, _SEED)
    signed["key"], signed["number"] = keys, numbers
    signed["signature"] = np.array(matrix.to_rows(), dtype=np.uint32) & 0xFF
    return signed


def sample(signed: np.ndarray, most: int | None = None) -> np.ndarray:
    """Keep at most so many: those with the lowest keys, whatever order they came in."""
    most = int(NEAR_ROWS.value) if most is None else most
    if len(signed) <= most:
        return signed
    return signed[lowest(signed, most)]


def lowest(signed: np.ndarray, most: int) -> np.ndarray:
    """Give the places of those with the lowest keys, the lowest first."""
    found: np.ndarray = np.lexsort((signed["number"], signed["key"]))[:most]
    return found


def similar_pairs(
    signed: np.ndarray, held_out: np.ndarray, among: np.ndarray | None = None
) -> np.ndarray:
    """Give the places of rows that are nearly the same: pairs, the earlier row first.

    Within a band's group each row is compared with the first one, with the one before it, and (held
    out) with the first that is learned: all of a group that belongs together is found by that, and
    a group of thousands takes no longer than it is large.

    Args:
        signed: signatures in the order of their rows' numbers.
        held_out: for each row that is compared, whether it is held out.
        among: places of the rows that are compared; None: all of them. The others are not copied:
            the signatures of half a million rows are 64 MB, and may lie on the disk.

    Returns:
        Places among those that are compared.
    """
    if len(held_out) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    among = np.arange(len(signed)) if among is None else among
    signatures = signed["signature"]
    bands: np.ndarray = signatures.view(np.uint64)
    candidates: np.ndarray = np.zeros((0, 2), dtype=np.int64)
    for place in range(PERMUTATIONS // _BAND):
        found = _in_band(bands[:, place][among], held_out)
        candidates = np.unique(np.concatenate([candidates, found]), axis=0)
    alike = [np.zeros(0, dtype=bool), *_alike(signatures, among[candidates])]
    return candidates[np.concatenate(alike)]


def _in_band(keys: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    same = np.concatenate([[False], ordered[1:] == ordered[:-1]])
    starts = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
    followers = np.flatnonzero(same)
    found = [
        np.stack([order[starts[followers]], order[followers]], axis=1),
        np.stack([order[followers - 1], order[followers]], axis=1),
    ]
    if held_out.any():
        learned = np.where(held_out[order], len(order), np.arange(len(order)))
        firsts = np.minimum.reduceat(learned, np.flatnonzero(~same))
        group = np.cumsum(~same) - 1
        asked = np.flatnonzero(held_out[order] & (firsts[group] < len(order)))
        found.append(np.stack([order[firsts[group[asked]]], order[asked]], axis=1))
    return np.sort(np.concatenate(found), axis=1)


def _alike(signatures: np.ndarray, pairs: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        one, other = pairs[start : start + _PAIRS_AT_ONCE].T
        agreed = np.mean(signatures[one] == signatures[other], axis=1)
        yield (agreed - _CHANCE) / (1 - _CHANCE) >= NEAR.value


def groups(count: int, pairs: np.ndarray) -> np.ndarray:
    """Give for each of ``count`` places the first place that it is linked with by pairs."""
    first = list(range(count))

    def root(place: int) -> int:
        while first[place] != place:
            first[place] = first[first[place]]
            place = first[place]
        return place

    for one, other in pairs:
        a, b = root(one), root(other)
        first[max(a, b)] = min(a, b)
    return np.array([root(place) for place in range(count)], dtype=np.int64)
