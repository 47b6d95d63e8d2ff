"""Looking after a store's disk: what takes the space, what may go, what is damaged."""

from mbuild.disk.inventory import Inventory, take_inventory
from mbuild.disk.prune import Policy, Pruned, prune
from mbuild.disk.usage import ModelUsage, Usage, usage
from mbuild.disk.verify import Finding, Verified, verify

__all__ = [
    "Finding",
    "Inventory",
    "ModelUsage",
    "Policy",
    "Pruned",
    "Usage",
    "Verified",
    "prune",
    "take_inventory",
    "usage",
    "verify",
]
