"""Looking after a store's disk: what takes the space, what may go, what is damaged."""

from mbuild.models.disk.inventory import Inventory, take_inventory
from mbuild.models.disk.prune import Pruned, PrunePolicy, prune
from mbuild.models.disk.usage import ModelUsage, Usage, usage
from mbuild.models.disk.verify import Finding, Verified, verify

__all__ = [
    "Finding",
    "Inventory",
    "ModelUsage",
    "PrunePolicy",
    "Pruned",
    "Usage",
    "Verified",
    "prune",
    "take_inventory",
    "usage",
    "verify",
]
