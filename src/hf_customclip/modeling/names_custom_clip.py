# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""What to say of a name that nobody knows."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str], most: int = 3, listed: int = 100) -> str:
    """The likeliest of the `known` names, at `most` so many, as a sentence with a blank before it.

    If none is near, all are named unless they are more than `listed`.

    >>> did_you_mean("resnet43", ["resnet34", "vgg11"]), did_you_mean("x", ["a", "b"])
    (' Did you mean resnet34?', ' Known are a, b.')
    """
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=most, cutoff=0.5)
    if near:
        return f" Did you mean {', '.join(near)}?"
    return f" Known are {', '.join(known)}." if 0 < len(known) <= listed else ""
