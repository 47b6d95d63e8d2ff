"""Models out of the store and back: GGUF files, directories, OCI image layouts."""

from mbuild.models.artifacts.exporting import export
from mbuild.models.artifacts.importing import Imported, import_tar
from mbuild.models.artifacts.jobs import ExportForm, ExportOptions, Written

__all__ = ["ExportForm", "ExportOptions", "Imported", "Written", "export", "import_tar"]
