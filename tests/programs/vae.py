"""A variational autoencoder, after pytorch/examples' `vae`; the noise of the reparametrisation is given."""


def model(t):
    nn, F = t.nn, t.nn.functional

    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(64, 32)
            self.fc21 = nn.Linear(32, 5)
            self.fc22 = nn.Linear(32, 5)
            self.fc3 = nn.Linear(5, 32)
            self.fc4 = nn.Linear(32, 64)

        def encode(self, x):
            h1 = F.relu(self.fc1(x))
            return self.fc21(h1), self.fc22(h1)

        def reparameterize(self, mu, logvar, eps):
            std = t.exp(0.5 * logvar)
            return mu + eps * std

        def decode(self, z):
            h3 = F.relu(self.fc3(z))
            return t.sigmoid(self.fc4(h3))

        def forward(self, x, eps):
            mu, logvar = self.encode(x.view(-1, 64))
            z = self.reparameterize(mu, logvar, eps)
            return self.decode(z), mu, logvar

    return VAE()


def data(rng):
    return rng.random((10, 16, 1, 8, 8), dtype="float32"), rng.standard_normal((10, 16, 5), dtype="float32")


def train(t, model, images, noise):
    F = t.nn.functional

    def loss_function(recon_x, x, mu, logvar):
        BCE = F.binary_cross_entropy(recon_x, x.view(-1, 64), reduction="sum")
        KLD = -0.5 * t.sum(1 + logvar - mu.pow(2) - logvar.exp())
        return BCE + KLD

    optimizer = t.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    model.train()
    for data, eps in zip(t.tensor(images), t.tensor(noise)):
        optimizer.zero_grad()
        recon_batch, mu, logvar = model(data, eps)
        loss = loss_function(recon_batch, data, mu, logvar)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    return losses
