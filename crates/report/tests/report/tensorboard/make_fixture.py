"""Makes torch.tfevents beside itself: what PyTorch's SummaryWriter writes for the calls in mod.rs.

    python make_fixture.py        (needs torch and tensorboard)
"""

import pathlib
import tempfile
from unittest import mock

import numpy as np
from torch.utils.tensorboard import SummaryWriter

TIME = 1.5e9

here = pathlib.Path(__file__).parent
with tempfile.TemporaryDirectory() as folder, mock.patch("time.time", return_value=TIME):
    writer = SummaryWriter(folder)
    writer.add_scalar("loss", 2.25, 0)
    writer.add_scalar("loss", 0.0, 1)
    # The sums are exact in any order.
    writer.add_histogram("weights/σ", np.array([8.0, 4.0, 4.0, 3.0, 0.5]), 300)
    writer.add_histogram("signs", np.array([-(2.0**-39), 0.0, 2.0**-39]), 2**31)
    writer.close()
    (file,) = pathlib.Path(folder).iterdir()
    (here / "torch.tfevents").write_bytes(file.read_bytes())
