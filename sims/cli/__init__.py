"""The researcher's commands: ``fedcore sim`` and ``fedcore doctor``."""
