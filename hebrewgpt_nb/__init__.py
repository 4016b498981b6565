import os

__version__ = "0.1.0"

os.environ.setdefault("GOMP_SPINCOUNT", "10000") # read when PyTorch is loaded: how long a thread spins before it sleeps (engine/2_cpu)
