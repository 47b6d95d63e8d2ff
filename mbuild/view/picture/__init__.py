"""Pictures of graphs: laid out, and written as SVG, Mermaid or DOT.

Knows nothing of builds; :mod:`mbuild.view.report` draws those.
"""

from mbuild.view.picture.model import Node, NodeLook, NodeRole, Picture

__all__ = ["Node", "NodeLook", "NodeRole", "Picture"]
