from tests.rooms.fixtures import server

__all__ = ["server"]
