"""References to the specification must name a place that exists: `Spec: ` with page and anchor, and `spec=` of endpoints.

The places are listed in docs/spec_anchors.txt, which spec_anchors.py makes from the specification.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set

from source import Finding, Source

_REFERENCE = re.compile(r"""\bSpec: (?P<doc>[a-z][\w/-]*\#?[\w.-]*)|\bspec="(?P<argument>[a-z][^"]*)\"""")
# Documents without anchors of ours to check: proposals, and the versions of the specification.
_OUTSIDE = re.compile(r"MSC\d+|v\d")


def check_anchors(source: Source, known: Set[str]) -> Iterator[Finding]:
    for number, line in enumerate(source.text.splitlines(), 1):
        for match in _REFERENCE.finditer(line):
            place = (match["doc"] or match["argument"]).rstrip(".")
            if place not in known and not _OUTSIDE.match(place):
                yield Finding(number, f"the specification has no {place}")
