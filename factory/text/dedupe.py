"""Near duplicates among texts: which says what another said before. Pure functions of str."""

from collections.abc import Sequence

from datasketch import MinHash, MinHashLSH

from factory.text.normalize import normalize

SHINGLE_WORDS = 5
NUM_PERMUTATIONS = 128
SEED = 1
# Share of the pairs just at the threshold that may be missed; what collides is compared in full anyway.
MAX_MISSED = 0.01


def near_duplicates(texts: Sequence[str], threshold: float = 0.8) -> list[int]:
    """Return for each text the index of the first text that it duplicates, its own if there is none.

    Two texts are duplicates when their normalised words are the same, or when the Jaccard similarity of their
    runs of five words reaches the threshold (0 to 1); shorter texts are compared as a whole. Only texts that
    duplicate none themselves are compared with, so that no chain of small changes joins unlike ones.
    """
    firsts: list[int] = []
    exact: dict[str, int] = {}
    shingles: dict[int, frozenset[str]] = {}
    index = MinHashLSH(threshold=threshold, num_perm=NUM_PERMUTATIONS, params=_bands(threshold))
    blank = MinHash(num_perm=NUM_PERMUTATIONS, seed=SEED)
    for number, text in enumerate(texts):
        words = normalize(text)
        if words not in exact:
            runs = _shingles(words)
            signature = blank.copy()
            signature.update_batch([run.encode() for run in runs])
            near = index.query(signature)
            like = [other for other in near if _jaccard(runs, shingles[other]) >= threshold]
            exact[words] = min(like, default=number)
            if not like:
                index.insert(number, signature, check_duplication=False)
                shingles[number] = runs
        firsts.append(exact[words])
    return firsts


def _bands(threshold: float) -> tuple[int, int]:
    """Return a signature's number of bands and of rows in each: the longest that miss few enough."""
    for rows in range(NUM_PERMUTATIONS // 2, 1, -1):
        bands = NUM_PERMUTATIONS // rows
        if (1 - threshold**rows) ** bands <= MAX_MISSED:
            return bands, rows
    return NUM_PERMUTATIONS, 1


def _shingles(normalized: str) -> frozenset[str]:
    words = normalized.split(" ")
    starts = range(max(1, len(words) - SHINGLE_WORDS + 1))
    return frozenset(" ".join(words[start : start + SHINGLE_WORDS]) for start in starts)


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    common = len(one & other)
    return common / (len(one) + len(other) - common)
