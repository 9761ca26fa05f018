from tests.accounts.harness import make_server, server

__all__ = ["make_server", "server"]
