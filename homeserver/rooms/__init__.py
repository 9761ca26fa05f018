"""Rooms: heads, building and sending events, membership, history, receipts, directory."""
