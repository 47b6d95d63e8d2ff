#!/usr/bin/env python3
"""Set up mbuild in .venv and run its example or its tests; needs only Python.

python3 run.py example     build Modelfile.example twice: once from scratch, once cached
python3 run.py test        run all tests
python3 run.py wheel       write dist/'s wheel for Linux, with compiled kernels
"""

from __future__ import print_function

import os
import subprocess
import sys

OLDEST = (3, 11)
HERE = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(HERE, ".venv")
BIN = os.path.join(VENV, "Scripts" if os.name == "nt" else "bin")
PYTHON = os.path.join(BIN, "python.exe" if os.name == "nt" else "python")


def call(*command, **options):
    """Run a command in the checkout; stop with its status when it fails."""
    status = subprocess.call(command, cwd=HERE, **options)
    if status:
        sys.exit(status)


def works(*command):
    """Whether a command can be run and succeeds, with nothing shown."""
    try:
        with open(os.devnull, "w") as nothing:
            return subprocess.call(command, stdout=nothing, stderr=nothing) == 0
    except OSError:
        return False


def newer_python():
    """The name of a Python on the path that is new enough, or an empty string."""
    names = ["python3.%d" % minor for minor in range(19, OLDEST[1] - 1, -1)]
    return next((name for name in names if works(name, "-c", "")), "")


def demand_python():
    """Stop with a remedy if this Python is too old, or cannot make a virtual environment."""
    this = "Python %d.%d.%d (%s)" % (sys.version_info[:3] + (sys.executable,))
    if sys.version_info[:2] < OLDEST:
        name = newer_python()
        remedy = "this machine has one: %s run.py" % name if name else "install a newer one"
        sys.exit("mbuild needs Python 3.11 or newer, and this is %s; %s" % (this, remedy))
    from importlib.util import find_spec

    missing = [name for name in ("venv", "ensurepip") if find_spec(name) is None]
    if missing:
        sys.exit(
            "%s has no module %s, which a virtual environment needs.\n"
            "On Debian and Ubuntu: apt install python3-venv\n"
            "(python%d.%d-venv if this is not the system's own Python)"
            % ((this, " and no module ".join(missing)) + sys.version_info[:2])
        )


def set_up(*extras):
    """Make the virtual environment, once, and install mbuild into it."""
    if not works(PYTHON, "-c", "import pip"):
        demand_python()
        print("setting up .venv", flush=True)
        call(sys.executable, "-m", "venv", VENV)
    install = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    call(*install + ["--upgrade", "pip>=25.1"])
    call(*install + ["--editable", "."] + list(extras))


def example():
    """Build the example from scratch, show it, and build it again with nothing to do."""
    set_up()
    models = os.path.join("examples", "models")
    print("\n$ python examples/make_models.py examples/models", flush=True)
    call(PYTHON, os.path.join("examples", "make_models.py"), models)
    build = [PYTHON, "-m", "mbuild", "--store", ".venv/example-store", "-t", "mario"]
    build += ["-f", "Modelfile.example"]
    print("\n$ mbuild -f Modelfile.example -t mario", flush=True)
    call(*build)
    print("\n$ mbuild show mario", flush=True)
    call(PYTHON, "-m", "mbuild", "show", "mario", "--store", ".venv/example-store")
    print("\n$ mbuild -f Modelfile.example -t mario      # again: nothing changed", flush=True)
    call(*build)


def test():
    """Run all tests."""
    set_up("--group", "dev")
    call(*[PYTHON, "-m", "pytest"] + sys.argv[2:])


def wheel():
    """Compile all kernels, some minutes, and make the wheel that carries them."""
    set_up()
    call(*[PYTHON, os.path.join("release", "wheel.py"), "dist"] + sys.argv[2:])


if __name__ == "__main__":
    commands = {"example": example, "test": test, "wheel": wheel}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]]()
