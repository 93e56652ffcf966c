"""Detectors of another package than anomaly_lightning's: two players, and one that sees images."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from anomaly_lightning.detectors.base import Detector, Normals, Spec, TrainedDetector


class TwoPlayers(TrainedDetector):
    """A generator rebuilds features, a critic scores them: each lowers a loss of its own, as in a GAN."""

    def build(self, spec: Spec) -> None:
        channels = spec.features[0]
        self.generator, self.critic = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, 1, 1)

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"critic": list(self.critic.parameters()), "generator": list(self.generator.parameters())}

    def losses(self, batch: Tensor, player: str) -> dict[str, Tensor]:
        rebuilt = self.generator(batch)
        if player == "critic":
            real, fake = self.critic(batch).mean(), self.critic(rebuilt.detach()).mean()
            return {"total": (1 - real).square() + fake.square(), "real": real}
        content = (rebuilt - batch).square().mean()
        return {"total": content + (1 - self.critic(rebuilt).mean()).square(), "content": content}

    def error_map(self, inputs: Tensor) -> Tensor:
        return (self.generator(inputs) - inputs).square().mean(1)


class Brightness(Detector):
    """Distance of each pixel, averaged over 4 x 4, from the mean of the normals' pixels at its place."""

    inputs: ClassVar[Literal["features", "images"]] = "images"
    mean: Tensor

    def build(self, spec: Spec) -> None:
        self.register_buffer("mean", torch.zeros(3, *spec.image))

    def grid(self, spec: Spec) -> tuple[int, int]:
        return spec.image[0] // 4, spec.image[1] // 4

    def prepare(self, normals: Normals) -> None:
        total = sum(batch.double().sum(0) for batch in normals)
        self.mean.copy_(total / sum(len(batch) for batch in normals))

    def error_map(self, inputs: Tensor) -> Tensor:
        return nn.functional.avg_pool2d((inputs - self.mean).abs().mean(1), 4)
