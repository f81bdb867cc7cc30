"""The errors a user can cause or meet. Each message names the thing, its value and the remedy."""


class EvergreenError(Exception):
    """A run cannot go on, for a reason that its user can do something about."""


class SourceError(EvergreenError):
    """A data source is missing, changed or holds nothing usable."""


class StartError(EvergreenError):
    """A model to go on from is missing, damaged, or cannot be trained."""


class DataValidationError(EvergreenError):
    """Rows break a critical expectation of their suite."""


class DataVersionError(EvergreenError):
    """`data/` or a `.dvc` pointer does not hold what it should."""


class StoreError(EvergreenError):
    """A step's folder cannot be read or written."""


class LossMaskError(EvergreenError):
    """The loss would be computed on something else than the answers and their stop tokens."""


class TrainingDivergedError(EvergreenError):
    """The loss, a gradient or a weight is no longer a finite number, or the loss ran away."""


class TrainingInterruptedError(EvergreenError):
    """The process that trained was killed."""


class TrackingError(EvergreenError):
    """The MLflow store cannot be reached, read or written."""


class RegistryError(EvergreenError):
    """A registered model, version or alias does not exist."""


class GateError(EvergreenError):
    """A gate said no (exit code 3)."""


class UsageError(EvergreenError):
    """A wrong word on the command line or in a recipe (exit code 2)."""
