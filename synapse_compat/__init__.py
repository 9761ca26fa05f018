"""Moving from Synapse: configuration and database import, its admin API, its module API. Not here yet."""
