"""How much memory a computation takes, measured in a process of its own."""

import subprocess
import sys

_PEAK = """
import resource
import torch
torch.set_num_threads(1)
{preparation}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{computation}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def peak_megabytes(preparation, computation):
    """Largest memory of the process beyond that which the preparation took."""
    script = _PEAK.format(preparation=preparation, computation=computation)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return int(done.stdout) / (1024 if sys.platform == "linux" else 1024**2)
