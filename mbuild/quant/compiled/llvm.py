"""What LLVM does for kernels where nothing else can: compile its own text, load an object file.

Importing this module imports llvmlite, and no numba.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import binding


@cache
def _machine() -> Any:
    """LLVM's target for this process; raises OSError where memory cannot be made executable."""
    binding.check_jit_execution()
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding.Target.from_triple(binding.get_process_triple())


def compiled(text: str, cpu: str = "", features: str = "") -> bytes:
    """An object file of LLVM's own text, for this CPU or the one that is named.

    Raises RuntimeError for a wrong text.
    """
    module = binding.parse_assembly(text)
    module.verify()
    if not cpu:
        cpu, features = binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten()
    machine = _machine().create_target_machine(cpu=cpu, features=features, opt=3)
    return bytes(machine.emit_object(module))


def address(code: bytes, name: str) -> int:
    """As :func:`mbuild.quant.compiled.elf.address`, of this platform's object files.

    LLVM ends the process where a file is none or calls what the process does not have. Raises
    RuntimeError where the function is not in it.
    """
    # An engine of its own for each file, so that functions of the same name do not meet.
    engine = binding.create_mcjit_compiler(
        binding.parse_assembly(""), _machine().create_target_machine(jit=True)
    )
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    found = engine.get_function_address(name)
    # The code stays in memory to the process's end; threads may run in it even then.
    engine.detach()
    if not found:
        raise RuntimeError(f"no function {name} in the object file")
    return int(found)
