"""Embeddings from triplets of images; the activation is an `autograd.Function` of its own."""


def model(t):
    nn = t.nn

    class LeakyClamp(t.autograd.Function):
        @staticmethod
        def forward(ctx, input, slope):
            ctx.save_for_backward(input)
            ctx.slope = slope
            return input.clamp(min=0) + slope * input.clamp(max=0)

        @staticmethod
        def backward(ctx, grad_output):
            (input,) = ctx.saved_tensors
            grad_input = grad_output.clone()
            grad_input[input < 0] *= ctx.slope
            return grad_input, None

    class EmbeddingNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.convnet = nn.Sequential(
                nn.Conv2d(1, 6, 3), nn.PReLU(), nn.MaxPool2d(2, stride=2), nn.Conv2d(6, 8, 3), nn.PReLU()
            )
            self.fc1 = nn.Linear(8 * 3 * 3, 16)
            self.fc2 = nn.Linear(16, 4)

        def forward(self, x):
            output = self.convnet(x)
            output = output.view(output.size()[0], -1)
            output = LeakyClamp.apply(self.fc1(output), 0.1)
            return t.nn.functional.normalize(self.fc2(output), p=2, dim=1)

    return EmbeddingNet()


def data(rng):
    return (rng.standard_normal((8, 3, 10, 1, 12, 12), dtype="float32"),)


def train(t, model, triplets):
    criterion = t.nn.TripletMarginLoss(margin=1.0, p=2)
    optimizer = t.optim.RMSprop(model.parameters(), lr=1e-3, eps=1e-2, momentum=0.9)
    losses = []
    for anchor, positive, negative in t.from_numpy(triplets):
        optimizer.zero_grad()
        a, p, n = model(anchor), model(positive), model(negative)
        loss = criterion(a, p, n)
        loss.backward()
        optimizer.step()
        distance = t.nn.functional.pairwise_distance(a, n)
        losses += [loss.item(), distance.detach().mean().item()]
    return losses
