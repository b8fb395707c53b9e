"""Ways to a peer behind routers: direct if possible, through a blind relay else."""
