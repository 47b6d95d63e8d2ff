"""How many, how far ahead, and how to stop: the one place that knows the machine's cores."""

from mbuild.work.ahead import Ahead
from mbuild.work.cores import THREADS_VARIABLE, cores, use_threads

__all__ = ["THREADS_VARIABLE", "Ahead", "cores", "use_threads"]
