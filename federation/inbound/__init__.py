"""What other servers send: transactions, the checks of events on receipt, and the events that are missing before them."""
