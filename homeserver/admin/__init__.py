"""What server admins ask over HTTP. Not here yet."""
