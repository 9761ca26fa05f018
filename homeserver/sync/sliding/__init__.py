"""Simplified sliding sync: windows over lists of rooms, over a connection whose state the server keeps (MSC4186)."""
