"""Pictures of graphs: laid out, and written as SVG, Mermaid or DOT.

Knows nothing of builds; :mod:`mbuild.view.report` draws those.
"""

from mbuild.view.picture.model import Look, Node, Picture, Role

__all__ = ["Look", "Node", "Picture", "Role"]
