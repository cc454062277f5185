"""timm's XCiT in float64, for the fixtures of its classifier and of the detector on it."""

import math

import torch
from timm.models import xcit


class Fourier(xcit.PositionalEncodingFourier):
    """timm's encoding in f64: its own features are f32 whatever the model is."""

    def forward(self, B, H, W):
        step = torch.arange(self.hidden_dim)
        period = self.temperature ** (2 * (step // 2) / self.hidden_dim)

        def features(length):
            place = torch.arange(1, length + 1) / (length + self.eps) * 2 * math.pi
            angle = place[:, None] / period
            return torch.where(step % 2 == 0, angle.sin(), angle.cos())

        rows, columns = features(H)[:, None].expand(H, W, -1), features(W)[None].expand(H, W, -1)
        grid = torch.cat([rows, columns], dim=2).permute(2, 0, 1)
        encoding = self.token_projection(grid[None]).repeat(B, 1, 1, 1)
        torch.testing.assert_close(encoding, super().forward(B, H, W), rtol=0, atol=1e-5)
        return encoding


xcit.PositionalEncodingFourier = Fourier
