"""What is worth knowing of the images and weights of trials: sentences, each with the data sets that it is of.

Knows neither trials nor files.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

DataNotes = Mapping[str, Set[str]]  # sentence -> digests as DatasetConfig.digest; none of them: it is of all


def joined(*parts: DataNotes) -> DataNotes:
    """The sentences of all parts, each once, of all the data sets of which a part says it."""
    found: dict[str, frozenset[str]] = {}
    for part in parts:
        for sentence, of in part.items():
            before = found.get(sentence)
            found[sentence] = frozenset(of) if before is None else before | of if before and of else frozenset()
    return found
