"""A training set, batch by batch: read when it is asked for, augmented, encoded."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from rmp_deploy.errors import RmpDeployError
from rmp_deploy.training.augmentation import augment, check_augmentation
from rmp_deploy.training.config import TrainConfig
from rmp_deploy.training.data import Samples
from rmp_deploy.training.evaluation import model_input


class Batches:
    """The batches of `config` over labelled samples; `generators` ("order", "augmentation", "encoding") draw.

    Raises:
        RmpDeployError: no labels, too few samples for a batch, or an augmentation that does not fit them.
    """

    def __init__(
        self, config: TrainConfig, samples: Samples, generators: Mapping[str, torch.Generator], device: torch.device
    ) -> None:
        if samples.y is None or len(samples.x) < 2:
            what = "labels = none, allowed one per sample" if samples.y is None else "samples = 1, allowed >= 2"
            raise RmpDeployError(f"data '{samples.name}': {what}. Add them to train.")
        check_augmentation(config.augmentation, samples.x.shape[1:])
        self.config, self.samples, self.generators, self.device = config, samples, generators, device
        self.labels = torch.from_numpy(samples.y)

    def order(self) -> list[Tensor]:
        """The next epoch's batches as indices of samples, in an order that is drawn."""
        order = torch.randperm(len(self.labels), generator=self.generators["order"])
        # A last batch of one sample would leave BatchNorm without a variance.
        return [b for b in torch.split(order, self.config.batch) if len(b) > 1]

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """What the network takes of these samples, and their labels, on the device."""
        m = self.config.model
        x = torch.from_numpy(np.ascontiguousarray(self.samples.x[indices.numpy()]))
        x = augment(x, self.config.augmentation, self.generators["augmentation"])
        x = model_input(x.to(self.device), m.encoding, m.T, self.generators["encoding"])
        return x, self.labels[indices].to(self.device)
