#!/usr/bin/env python3
"""Writes docs/spec_operations.txt: every operation of the specification that a homeserver answers, from its OpenAPI files.

    scripts/checks/operations.py FOLDER > docs/spec_operations.txt

FOLDER holds client-server.json and server-server.json, as a build of github.com/matrix-org/matrix-spec has them. Each line is the
API, the method and the path.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

APIS = ("client-server", "server-server")
METHODS = ("get", "put", "post", "delete")


def main(folder: Path) -> None:
    for api in APIS:
        paths = json.loads((folder / f"{api}.json").read_text("utf-8"))["paths"]
        for path in sorted(paths):
            for method in METHODS:
                if method in paths[path]:
                    print(api, method.upper(), path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
