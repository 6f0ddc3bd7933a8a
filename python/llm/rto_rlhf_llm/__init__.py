"""The compiled half of `rto.llm`; see there."""

from ._llm import Model, __version__

__all__ = ["Model", "__version__"]
