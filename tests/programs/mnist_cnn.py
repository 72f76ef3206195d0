"""A classifier of digits with two convolutions, after pytorch/examples' `mnist`: Adadelta, rate falling by steps."""


def model(t):
    nn, F = t.nn, t.nn.functional

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(1, 8, 3, 1)
            self.conv2 = nn.Conv2d(8, 16, 3, 1)
            self.dropout1 = nn.Dropout(0.0)
            self.dropout2 = nn.Dropout(0.0)
            self.fc1 = nn.Linear(16 * 6 * 6, 32)
            self.fc2 = nn.Linear(32, 10)

        def forward(self, x):
            x = F.relu(self.conv1(x))
            x = F.relu(self.conv2(x))
            x = F.max_pool2d(x, 2)
            x = self.dropout1(x)
            x = t.flatten(x, 1)
            x = F.relu(self.fc1(x))
            x = self.dropout2(x)
            x = self.fc2(x)
            return F.log_softmax(x, dim=1)

    return Net()


def data(rng):
    return rng.random((48, 1, 16, 16), dtype="float32"), rng.integers(0, 10, 48)


def train(t, model, images, labels):
    F = t.nn.functional
    device = t.device("cpu")
    dataset = t.utils.data.TensorDataset(t.from_numpy(images), t.from_numpy(labels))
    train_loader = t.utils.data.DataLoader(dataset, batch_size=16, shuffle=False)
    test_loader = t.utils.data.DataLoader(dataset, batch_size=48)
    model = model.to(device)
    optimizer = t.optim.Adadelta(model.parameters(), lr=1.0)
    scheduler = t.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    losses = []
    for _epoch in range(3):
        model.train()
        for _batch_idx, (data, target) in enumerate(train_loader):
            data, target = data.to(device), target.to(device)
            optimizer.zero_grad()
            output = model(data)
            loss = F.nll_loss(output, target)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        model.eval()
        test_loss, correct = 0, 0
        with t.no_grad():
            for data, target in test_loader:
                output = model(data)
                test_loss += F.nll_loss(output, target, reduction="sum").item()
                pred = output.argmax(dim=1, keepdim=True)
                correct += pred.eq(target.view_as(pred)).sum().item()
        losses += [test_loss / len(test_loader.dataset), correct]
        scheduler.step()
    return losses
