"""What tests stand on: a reactor, databases, servers in this process and outside of it, a client, the specification."""
