"""The one exception that ghostkit raises for what a user can mend.

Every message quotes what was given, says what was expected, and what to do. A subclass exists only where a caller
would catch it apart from the rest.
"""

__all__ = ["GhostkitError"]


class GhostkitError(Exception):
    """Something that the user gave cannot be used; the message quotes it and says what was expected."""


class FrozenError(GhostkitError):
    """All that could grow would join frozen parts; an engine then records that it did not."""


class ProbeError(GhostkitError):
    """The probe batch cannot tell what should grow; an engine then records that it did not."""
