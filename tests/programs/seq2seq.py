"""Translation with GRUs and additive attention, after torch's tutorial `seq2seq_translation`; teacher forcing."""

PAD, SOS = 0, 1


def model(t, n_in=18, n_out=21, hidden_size=12):
    nn, F = t.nn, t.nn.functional

    class EncoderRNN(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(n_in, hidden_size, padding_idx=PAD)
            self.gru = nn.GRU(hidden_size, hidden_size, batch_first=True)
            self.dropout = nn.Dropout(0.0)

        def forward(self, input):
            embedded = self.dropout(self.embedding(input))
            return self.gru(embedded)

    class BahdanauAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.Wa = nn.Linear(hidden_size, hidden_size)
            self.Ua = nn.Linear(hidden_size, hidden_size)
            # No bias: softmax does not see it, and Adam would follow the rounding errors of its zero gradient.
            self.Va = nn.Linear(hidden_size, 1, bias=False)

        def forward(self, query, keys, mask):
            scores = self.Va(t.tanh(self.Wa(query) + self.Ua(keys)))
            scores = scores.squeeze(2).unsqueeze(1)
            scores = scores.masked_fill(mask.unsqueeze(1), float("-inf"))
            weights = F.softmax(scores, dim=-1)
            return t.bmm(weights, keys), weights

    class AttnDecoderRNN(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(n_out, hidden_size)
            self.attention = BahdanauAttention()
            self.gru = nn.GRU(2 * hidden_size, hidden_size, batch_first=True)
            self.out = nn.Linear(hidden_size, n_out)

        def forward(self, encoder_outputs, encoder_hidden, mask, target_tensor):
            batch_size = encoder_outputs.size(0)
            decoder_input = t.empty(batch_size, 1, dtype=t.long).fill_(SOS)
            decoder_hidden = encoder_hidden
            decoder_outputs, attentions = [], []
            for i in range(target_tensor.size(1)):
                decoder_output, decoder_hidden, attn = self.forward_step(
                    decoder_input, decoder_hidden, encoder_outputs, mask
                )
                decoder_outputs.append(decoder_output)
                attentions.append(attn)
                decoder_input = target_tensor[:, i].unsqueeze(1)
            decoder_outputs = F.log_softmax(t.cat(decoder_outputs, dim=1), dim=-1)
            return decoder_outputs, decoder_hidden, t.cat(attentions, dim=1)

        def forward_step(self, input, hidden, encoder_outputs, mask):
            embedded = self.embedding(input)
            query = hidden.permute(1, 0, 2)
            context, attn_weights = self.attention(query, encoder_outputs, mask)
            output, hidden = self.gru(t.cat((embedded, context), dim=2), hidden)
            return self.out(output), hidden, attn_weights

    return nn.ModuleDict({"encoder": EncoderRNN(), "decoder": AttnDecoderRNN()})


def data(rng):
    sources, targets = rng.integers(2, 18, (8, 6, 7)), rng.integers(2, 21, (8, 6, 6))
    sources[:, :3, 5:] = PAD
    targets[:, 1::2, 4:] = PAD
    return sources, targets


def train(t, model, sources, targets):
    encoder, decoder = model["encoder"], model["decoder"]
    encoder_optimizer = t.optim.Adam(encoder.parameters(), lr=2e-3)
    decoder_optimizer = t.optim.Adam(decoder.parameters(), lr=2e-3)
    criterion = t.nn.NLLLoss(ignore_index=PAD)
    losses = []
    for input_tensor, target_tensor in zip(t.LongTensor(sources), t.LongTensor(targets)):
        encoder_optimizer.zero_grad()
        decoder_optimizer.zero_grad()
        encoder_outputs, encoder_hidden = encoder(input_tensor)
        decoder_outputs, _, attn = decoder(encoder_outputs, encoder_hidden, input_tensor == PAD, target_tensor)
        loss = criterion(decoder_outputs.view(-1, decoder_outputs.size(-1)), target_tensor.view(-1))
        loss.backward()
        encoder_optimizer.step()
        decoder_optimizer.step()
        losses += [loss.item(), attn.max().item()]
    return losses
