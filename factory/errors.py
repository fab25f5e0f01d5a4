"""The error tree: everything the factory raises on purpose, and the exit code each carries.

FactoryError
├─ UsageError        (ValueError)      a wrong argument on the command line            exit 2
├─ RecipeError       (ValueError)      faults in a recipe, all of them at once         exit 2
├─ ArtifactError     (ValueError)      a stage folder is missing, damaged or foreign
├─ MissingExtraError (ImportError)     an optional package is needed and not installed
├─ BaseModelError    (LookupError)     a base model cannot be found or read
├─ IngestError       (OSError)         the source folder as a whole cannot be read
├─ ChunkError · SynthesizeError · CurateError · ExportError (ValueError)
├─ TrainError · MergeError · QuantizeError · EvaluateError   (RuntimeError)
├─ BackendError      (ConnectionError) something that answers chats did not
├─ ServeError        (RuntimeError)    a request to the server got no answer; factory.api.errors has its kinds
└─ GateError         (RuntimeError)    a quality gate was not met                      exit 3
"""


class FactoryError(Exception):
    """The root: its message says what failed with the value, why, and what to do."""

    exit_code = 1


class UsageError(FactoryError, ValueError):
    """A command was called with an argument it cannot use."""

    exit_code = 2


class RecipeError(FactoryError, ValueError):
    """A recipe holds one or more faults; `faults` lists a line for each."""

    exit_code = 2

    def __init__(self, subject: str, faults: list[str]) -> None:
        """Put one fault on a line."""
        self.faults = faults
        super().__init__(f"{subject}: {len(faults)} fault(s)\n  " + "\n  ".join(faults))


class ArtifactError(FactoryError, ValueError):
    """A stage folder is missing, incomplete or of another kind than expected."""


class MissingExtraError(FactoryError, ImportError):
    """An optional package is needed for what was asked and is not installed."""


class BaseModelError(FactoryError, LookupError):
    """A base model cannot be found, read or used."""


class IngestError(FactoryError, OSError):
    """The source folder as a whole cannot be read; single files are quarantined instead."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ChunkError(FactoryError, ValueError):
    """The corpus cannot be cut into chunks."""


class SynthesizeError(FactoryError, ValueError):
    """No training examples can be made from the chunks."""


class CurateError(FactoryError, ValueError):
    """The examples cannot become a dataset, or a leak between its splits was found."""


class TrainError(FactoryError, RuntimeError):
    """Training cannot start or cannot go on."""


class MergeError(FactoryError, RuntimeError):
    """The adapter cannot be merged into its base."""


class QuantizeError(FactoryError, RuntimeError):
    """A GGUF file cannot be written or quantized."""


class EvaluateError(FactoryError, RuntimeError):
    """A model cannot be scored."""


class ExportError(FactoryError, ValueError):
    """A bundle cannot be written, or does not match its own checksums."""


class BackendError(FactoryError, ConnectionError):
    """A backend did not answer a chat."""


class GateError(FactoryError, RuntimeError):
    """A quality gate was not met; the message names the gate, the subject and both numbers."""

    exit_code = 3


class ServeError(FactoryError, RuntimeError):
    """A request to the server got no answer."""
