"""The channel layer's names between gateways and workers."""

WORKERS = "workers"  # the group of all workers' channels
