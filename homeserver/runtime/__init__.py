"""What every server needs and no protocol defines: HTTP, database, configuration, clock, logs, metrics.

Knows no Matrix beyond the standard error response.
"""
