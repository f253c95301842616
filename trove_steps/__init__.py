"""Dense-retrieval inference as cached, restartable steps."""

__version__ = "0.1.0"
