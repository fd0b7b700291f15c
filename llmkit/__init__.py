"""llmkit: the package that the LLM foundations course builds, one lesson at a time."""

__version__ = "0.1.0"
