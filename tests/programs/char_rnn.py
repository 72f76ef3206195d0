"""Names sorted by language, after torch's tutorial `char_rnn_classification`: a recurrent net and SGD by hand."""


def model(t, n_letters=20, n_hidden=16, n_categories=4):
    nn = t.nn

    class RNN(nn.Module):
        def __init__(self, input_size, hidden_size, output_size):
            super().__init__()
            self.hidden_size = hidden_size
            self.i2h = nn.Linear(input_size + hidden_size, hidden_size)
            self.h2o = nn.Linear(hidden_size, output_size)
            self.softmax = nn.LogSoftmax(dim=1)

        def forward(self, input, hidden):
            combined = t.cat((input, hidden), 1)
            hidden = t.tanh(self.i2h(combined))
            output = self.h2o(hidden)
            output = self.softmax(output)
            return output, hidden

        def initHidden(self):
            return t.zeros(1, self.hidden_size)

    return RNN(n_letters, n_hidden, n_categories)


def data(rng):
    return rng.integers(0, 20, (10, 8)), rng.integers(3, 9, 10), rng.integers(0, 4, 10)


def train(t, rnn, words, lengths, categories, learning_rate=0.05):
    def lineToTensor(line):
        tensor = t.zeros(len(line), 1, 20)
        for li, letter in enumerate(line):
            tensor[li][0][letter] = 1
        return tensor

    def categoryFromOutput(output):
        _top_n, top_i = output.topk(1)
        return top_i[0].item()

    criterion = t.nn.NLLLoss()
    losses = []
    for word, length, category in zip(words, lengths, categories):
        line_tensor = lineToTensor(word[:length])
        category_tensor = t.tensor([int(category)], dtype=t.long)
        hidden = rnn.initHidden()
        rnn.zero_grad()
        for i in range(line_tensor.size()[0]):
            output, hidden = rnn(line_tensor[i], hidden)
        loss = criterion(output, category_tensor)
        loss.backward()
        for p in rnn.parameters():
            p.data.add_(p.grad.data, alpha=-learning_rate)
        losses += [loss.item(), categoryFromOutput(output)]
    return losses
