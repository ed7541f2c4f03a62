"""One torch thread: tiny tensors gain nothing from more, and OpenMP's threads spin while they wait,
which takes many times as long where the cores are busy. Tests of threads ask for theirs."""

import torch

torch.set_num_threads(1)
