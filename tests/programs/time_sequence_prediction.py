"""Sine waves continued by two LSTM cells, after pytorch/examples' `time_sequence_prediction`: LBFGS in float64."""

import numpy as np


def model(t):
    nn = t.nn

    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm1 = nn.LSTMCell(1, 11)
            self.lstm2 = nn.LSTMCell(11, 11)
            self.linear = nn.Linear(11, 1)

        def forward(self, input, future=0):
            outputs = []
            h_t = t.zeros(input.size(0), 11, dtype=t.double)
            c_t = t.zeros(input.size(0), 11, dtype=t.double)
            h_t2 = t.zeros(input.size(0), 11, dtype=t.double)
            c_t2 = t.zeros(input.size(0), 11, dtype=t.double)
            for input_t in input.split(1, dim=1):
                h_t, c_t = self.lstm1(input_t, (h_t, c_t))
                h_t2, c_t2 = self.lstm2(h_t, (h_t2, c_t2))
                output = self.linear(h_t2)
                outputs += [output]
            for _ in range(future):
                h_t, c_t = self.lstm1(output, (h_t, c_t))
                h_t2, c_t2 = self.lstm2(h_t, (h_t2, c_t2))
                output = self.linear(h_t2)
                outputs += [output]
            return t.cat(outputs, dim=1)

    return Sequence().double()


def data(rng):
    return (np.sin((np.arange(16) + rng.integers(-40, 40, (6, 1))) / 3.0),)


def train(t, seq, waves):
    input = t.from_numpy(waves[2:, :-1])
    target = t.from_numpy(waves[2:, 1:])
    test_input = t.from_numpy(waves[:2, :-1])
    test_target = t.from_numpy(waves[:2, 1:])
    criterion = t.nn.MSELoss()
    optimizer = t.optim.LBFGS(seq.parameters(), lr=0.8, max_iter=4)
    losses = []
    for _step in range(3):

        def closure():
            optimizer.zero_grad()
            out = seq(input)
            loss = criterion(out, target)
            losses.append(loss.item())
            loss.backward()
            return loss

        optimizer.step(closure)
        with t.no_grad():
            future = 5
            pred = seq(test_input, future=future)
            losses.append(criterion(pred[:, :-future], test_target).item())
            losses += pred.detach().numpy()[:, -future:].ravel().tolist()
    return losses
