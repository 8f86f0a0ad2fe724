"""Every error that Handrail raises on purpose.

    HandrailError                 exit status
    ├── InputError                    2         something the user gave cannot be used; nothing was written
    │   ├── ConfigError                         a key or a value of a config
    │   ├── DataError                           a file of records, a line of it
    │   └── ModelError                          a model or a tokenizer
    └── RunError                      1         something happened while working
        ├── RunLocked                           another process works in this run folder
        ├── CheckpointError                     no checkpoint that can be trusted
        ├── StorageError                        the disk is full or cannot be written
        ├── NonFiniteError                      NaN or infinity, several steps in a row
        ├── RewardError                         a reward function broke its promise
        └── JudgeError                          a judge at an endpoint gave no answer

A message says three things in this order: what was found and where, what is allowed, what to do.
"""


class HandrailError(Exception):
    """Root of the tree.  `exit_code` is the status with which the command line ends."""

    exit_code = 1

    def __init__(self, found: str, allowed: str = "", remedy: str = ""):
        self.found, self.allowed, self.remedy = found, allowed, remedy
        super().__init__("\n".join(part for part in (found, allowed, remedy) if part))


class InputError(HandrailError):
    """What the user gave cannot be used.  Raised before anything is written."""

    exit_code = 2


class ConfigError(InputError):
    """A config has an unknown key, a wrong value or a combination that cannot work."""


class DataError(InputError):
    """A file of records holds something that cannot be used; the message names file and line."""


class ModelError(InputError):
    """A model or tokenizer is missing, damaged, or of the wrong kind."""


class RunError(HandrailError):
    """Work began and could not be finished."""


class RunLocked(RunError):
    """Another live process works in the run folder."""


class CheckpointError(RunError):
    """No checkpoint passes its manifest."""


class StorageError(RunError):
    """A write failed: disk full, read-only folder, missing rights."""


class NonFiniteError(RunError):
    """A loss, gradient, reward or log-probability was NaN or infinite too many steps in a row."""


class RewardError(RunError):
    """A reward function raised, hung, or returned something that is not one finite number a response."""


class JudgeError(RunError):
    """A judge at an endpoint refused, or gave no answer however often it was asked."""
