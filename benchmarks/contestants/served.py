"""The agent as a server takes it: `AGENTS=benchmarks.contestants.served:airline`.

A server loads its agents before it makes the clients of its models: this gives it the instant model for the built-in
one, in each of its processes.
"""

from benchmarks.contestants.agent import InstantModel, airline
from infrastructure.models import providers

__all__ = ["airline"]

providers.OfflineModel = lambda _tokens: InstantModel()  # type: ignore[assignment,misc]
