"""Every error Argosy raises on purpose. Imports nothing.

    ArgosyError
    ├── ConfigError (ValueError)        an option or a configuration that cannot be honoured
    │   └── OutOfMemory                 the memory allowed is too small; names the number to set
    ├── ModelError                      a model that cannot be used
    │   ├── ModelNotFound               no such folder, bundle or cached repository
    │   ├── CheckpointError             broken or unsupported checkpoint
    │   ├── TokenizerError              broken tokenizer, or larger than the embedding
    │   ├── TemplateError               chat template missing, broken or refusing
    │   └── BundleError                 broken, truncated or newer bundle
    ├── RequestError (ValueError)       one request is wrong; the engine is not
    │   ├── InvalidPrompt               empty, not text, ids outside the vocabulary
    │   ├── ContextLengthExceeded       prompt plus answer do not fit the context
    │   ├── InvalidSampling             a sampling parameter out of its range
    │   └── UnsupportedParameter        a known parameter with a value that cannot be honoured
    ├── Overloaded                      a queue is full; try again later
    ├── EngineDead                      the engine process died and did not come back
    └── StepFailed                      a step failed; its sequences ended with an error

A message says what, the value, the limit and the remedy, in that order.
"""


class ArgosyError(Exception):
    """Base of every error raised on purpose."""


class ConfigError(ArgosyError, ValueError):
    """An option or a configuration that cannot be honoured."""


class OutOfMemory(ConfigError):
    """The memory allowed is too small; the message names the number to set."""


class ModelError(ArgosyError):
    """A model that cannot be used."""


class ModelNotFound(ModelError):
    """No such folder, bundle or cached repository."""


class CheckpointError(ModelError):
    """A broken or unsupported checkpoint."""


class TokenizerError(ModelError):
    """A broken tokenizer, or one larger than the embedding."""


class TemplateError(ModelError):
    """A chat template that is missing, broken, or refuses the messages."""


class BundleError(ModelError):
    """A broken, truncated or newer bundle."""


class RequestError(ArgosyError, ValueError):
    """One request is wrong; the engine is not."""


class InvalidPrompt(RequestError):
    """A prompt that is empty, not text, or holds ids outside the vocabulary."""


class ContextLengthExceeded(RequestError):
    """Prompt plus answer do not fit the context."""


class InvalidSampling(RequestError):
    """A sampling parameter out of its range."""


class UnsupportedParameter(RequestError):
    """A known parameter with a value that cannot be honoured."""


class Overloaded(ArgosyError):
    """A queue is full; try again later.

    retry_after: seconds after which there should be room; None where nobody can tell.
    """

    def __init__(self, message: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineDead(ArgosyError):
    """The engine process died and did not come back, or was stopped."""


class StepFailed(ArgosyError):
    """A step of the engine failed; its sequences ended with an error."""
