"""The version of this Hearth."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("hearth-homeserver")
except PackageNotFoundError:  # run from a source tree that was never installed
    VERSION = "0.1.0"
