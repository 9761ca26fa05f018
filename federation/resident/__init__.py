"""This server as a resident of rooms: what others may read of them, and how their users come in and go."""
