"""Denoising diffusion: a small U-Net with the time as sines and cosines, noise and times given, weights averaged."""

import copy
import math


def model(t, dim=8):
    nn = t.nn

    class SinusoidalPositionEmbeddings(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.dim = dim

        def forward(self, time):
            half_dim = self.dim // 2
            embeddings = math.log(10000) / (half_dim - 1)
            embeddings = t.exp(t.arange(half_dim, device=time.device) * -embeddings)
            embeddings = time[:, None] * embeddings[None, :]
            return t.cat((embeddings.sin(), embeddings.cos()), dim=-1)

    class Block(nn.Module):
        def __init__(self, dim_in, dim_out):
            super().__init__()
            self.proj = nn.Conv2d(dim_in, dim_out, 3, padding=1)
            self.norm = nn.GroupNorm(4, dim_out)
            self.act = nn.SiLU()
            self.time = nn.Linear(2 * dim, 2 * dim_out)

        def forward(self, x, time_emb):
            scale, shift = self.time(time_emb)[:, :, None, None].chunk(2, dim=1)
            x = self.norm(self.proj(x))
            return self.act(x * (scale + 1) + shift)

    class Unet(nn.Module):
        def __init__(self):
            super().__init__()
            self.time_mlp = nn.Sequential(
                SinusoidalPositionEmbeddings(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, 2 * dim)
            )
            self.down = Block(1, dim)
            self.downsample = nn.Conv2d(dim, dim, 4, 2, 1)
            self.mid = Block(dim, 2 * dim)
            self.upsample = nn.ConvTranspose2d(2 * dim, dim, 4, 2, 1)
            self.up = Block(2 * dim, dim)
            self.final_conv = nn.Conv2d(dim, 1, 1)

        def forward(self, x, time):
            emb = self.time_mlp(time)
            h = self.down(x, emb)
            x = self.upsample(self.mid(self.downsample(h), emb))
            return self.final_conv(self.up(t.cat((x, h), dim=1), emb))

    return Unet()


def data(rng):
    images = rng.random((8, 4, 1, 12, 12), dtype="float32") * 2 - 1
    return images, rng.standard_normal(images.shape, dtype="float32"), rng.integers(0, 50, (8, 4))


def train(t, model, images, noises, times, timesteps=50, beta=0.9):
    F = t.nn.functional
    betas = t.linspace(0.0001, 0.02, timesteps)
    alphas_cumprod = t.cumprod(1.0 - betas, dim=0)
    sqrt_alphas_cumprod = t.sqrt(alphas_cumprod)
    sqrt_one_minus_alphas_cumprod = t.sqrt(1.0 - alphas_cumprod)

    def extract(a, time, x_shape):
        batch_size = time.shape[0]
        out = a.gather(-1, time.cpu())
        return out.reshape(batch_size, *((1,) * (len(x_shape) - 1))).to(time.device)

    def q_sample(x_start, time, noise):
        return (
            extract(sqrt_alphas_cumprod, time, x_start.shape) * x_start
            + extract(sqrt_one_minus_alphas_cumprod, time, x_start.shape) * noise
        )

    ema = copy.deepcopy(model)
    ema.requires_grad_(False)
    optimizer = t.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for x, noise, time in zip(t.tensor(images), t.tensor(noises), t.tensor(times)):
        optimizer.zero_grad()
        predicted_noise = model(q_sample(x, time, noise), time)
        loss = F.smooth_l1_loss(noise, predicted_noise)
        loss.backward()
        optimizer.step()
        with t.no_grad():
            for averaged, current in zip(ema.parameters(), model.parameters()):
                averaged.mul_(beta).add_(current.data, alpha=1 - beta)
            losses += [loss.item(), F.mse_loss(ema(x, time), noise).item()]
    return losses
