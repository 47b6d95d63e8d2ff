#!/usr/bin/env python3
"""Set up mbuild in .venv and run its example or its tests; needs only Python.

python3 run.py example     build Modelfile.example twice: once from scratch, once cached
python3 run.py test        run all tests
"""

import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(HERE, ".venv")
BIN = os.path.join(VENV, "Scripts" if os.name == "nt" else "bin")
PYTHON = os.path.join(BIN, "python.exe" if os.name == "nt" else "python")


def call(*command, **options):
    """Run a command in the checkout; stop with its status when it fails."""
    status = subprocess.call(command, cwd=HERE, **options)
    if status:
        sys.exit(status)


def set_up(*extras):
    """Make the virtual environment, once, and install mbuild into it."""
    if sys.version_info < (3, 11):
        sys.exit("mbuild needs Python 3.11 or newer, this is %s" % sys.version.split()[0])
    if not os.path.exists(PYTHON):
        print("setting up .venv", flush=True)
        call(sys.executable, "-m", "venv", VENV)
    install = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    call(*install, "--upgrade", "pip>=25.1")
    call(*install, "--editable", ".", *extras)


def example():
    """Build the example from scratch, show it, and build it again with nothing to do."""
    set_up()
    models = os.path.join("examples", "models")
    print("\n$ python examples/make_models.py examples/models", flush=True)
    call(PYTHON, os.path.join("examples", "make_models.py"), models)
    build = [PYTHON, "-m", "mbuild", "--store", ".venv/example-store", "-f", "Modelfile.example"]
    print("\n$ mbuild -f Modelfile.example -t mario", flush=True)
    call(*build, "-t", "mario")
    print("\n$ mbuild show mario", flush=True)
    call(PYTHON, "-m", "mbuild", "show", "mario", "--store", ".venv/example-store")
    print("\n$ mbuild -f Modelfile.example -t mario      # again: nothing changed", flush=True)
    call(*build, "-t", "mario")


def test():
    """Run all tests."""
    set_up("--group", "dev")
    call(PYTHON, "-m", "pytest", *sys.argv[2:])


if __name__ == "__main__":
    commands = {"example": example, "test": test}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]]()
