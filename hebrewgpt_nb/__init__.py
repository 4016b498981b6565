import os

__version__ = "0.1.0"

# read when PyTorch is loaded: how long a thread spins before it sleeps (engine/2_cpu)
if "OMP_WAIT_POLICY" not in os.environ: os.environ.setdefault("GOMP_SPINCOUNT", "10000")
