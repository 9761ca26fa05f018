"""`python -m homeserver.main`: the command line."""

import sys

from homeserver.main.cli import main

sys.exit(main(sys.argv[1:]))
