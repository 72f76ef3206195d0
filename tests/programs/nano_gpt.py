"""A GPT after Karpathy's nanoGPT: pre-norm blocks, tied weights, AdamW in two groups, a cosine schedule by hand."""

import math


def model(t, vocab_size=40, block_size=12, n_layer=2, n_head=2, n_embd=16):
    nn, F = t.nn, t.nn.functional

    class LayerNorm(nn.Module):
        """LayerNorm with an optional bias."""

        def __init__(self, ndim, bias):
            super().__init__()
            self.weight = nn.Parameter(t.ones(ndim))
            self.bias = nn.Parameter(t.zeros(ndim)) if bias else None

        def forward(self, input):
            return F.layer_norm(input, self.weight.shape, self.weight, self.bias, 1e-5)

    class CausalSelfAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.c_attn = nn.Linear(n_embd, 3 * n_embd, bias=False)
            self.c_proj = nn.Linear(n_embd, n_embd, bias=False)

        def forward(self, x):
            B, T, C = x.size()
            q, k, v = self.c_attn(x).split(n_embd, dim=2)
            k = k.view(B, T, n_head, C // n_head).transpose(1, 2)
            q = q.view(B, T, n_head, C // n_head).transpose(1, 2)
            v = v.view(B, T, n_head, C // n_head).transpose(1, 2)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=True)
            y = y.transpose(1, 2).contiguous().view(B, T, C)
            return self.c_proj(y)

    class MLP(nn.Module):
        def __init__(self):
            super().__init__()
            self.c_fc = nn.Linear(n_embd, 4 * n_embd, bias=False)
            self.gelu = nn.GELU()
            self.c_proj = nn.Linear(4 * n_embd, n_embd, bias=False)

        def forward(self, x):
            return self.c_proj(self.gelu(self.c_fc(x)))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1 = LayerNorm(n_embd, bias=False)
            self.attn = CausalSelfAttention()
            self.ln_2 = LayerNorm(n_embd, bias=False)
            self.mlp = MLP()

        def forward(self, x):
            x = x + self.attn(self.ln_1(x))
            return x + self.mlp(self.ln_2(x))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.transformer = nn.ModuleDict(
                dict(
                    wte=nn.Embedding(vocab_size, n_embd),
                    wpe=nn.Embedding(block_size, n_embd),
                    drop=nn.Dropout(0.0),
                    h=nn.ModuleList([Block() for _ in range(n_layer)]),
                    ln_f=LayerNorm(n_embd, bias=False),
                )
            )
            self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
            self.transformer.wte.weight = self.lm_head.weight
            self.apply(self._init_weights)
            for pn, p in self.named_parameters():
                if pn.endswith("c_proj.weight"):
                    t.nn.init.normal_(p, mean=0.0, std=0.02 / math.sqrt(2 * n_layer))

        def _init_weights(self, module):
            if isinstance(module, nn.Linear):
                t.nn.init.normal_(module.weight, mean=0.0, std=0.02)
                if module.bias is not None:
                    t.nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                t.nn.init.normal_(module.weight, mean=0.0, std=0.02)

        def forward(self, idx, targets=None):
            _b, T = idx.size()
            pos = t.arange(0, T, dtype=t.long, device=idx.device)
            tok_emb = self.transformer.wte(idx)
            pos_emb = self.transformer.wpe(pos)
            x = self.transformer.drop(tok_emb + pos_emb)
            for block in self.transformer.h:
                x = block(x)
            x = self.transformer.ln_f(x)
            if targets is None:
                return self.lm_head(x[:, [-1], :]), None
            logits = self.lm_head(x)
            return logits, F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)

        @t.no_grad()
        def generate(self, idx, max_new_tokens, top_k=5):
            for _ in range(max_new_tokens):
                idx_cond = idx if idx.size(1) <= block_size else idx[:, -block_size:]
                logits, _ = self(idx_cond)
                logits = logits[:, -1, :]
                v, _ = t.topk(logits, min(top_k, logits.size(-1)))
                logits[logits < v[:, [-1]]] = -float("Inf")
                probs = F.softmax(logits, dim=-1)
                idx = t.cat((idx, probs.argmax(dim=-1, keepdim=True)), dim=1)
            return idx

    return GPT()


def data(rng):
    return (rng.integers(0, 40, 200), rng.integers(0, 180, (10, 4)))


def train(t, model, corpus, starts, block_size=12, learning_rate=1e-3, min_lr=1e-4, warmup=3, decay=8):
    def get_lr(it):
        if it < warmup:
            return learning_rate * (it + 1) / (warmup + 1)
        if it > decay:
            return min_lr
        coeff = 0.5 * (1.0 + math.cos(math.pi * (it - warmup) / (decay - warmup)))
        return min_lr + coeff * (learning_rate - min_lr)

    param_dict = {pn: p for pn, p in model.named_parameters() if p.requires_grad}
    optim_groups = [
        {"params": [p for p in param_dict.values() if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in param_dict.values() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = t.optim.AdamW(optim_groups, lr=learning_rate, betas=(0.9, 0.95))
    losses = []
    for it, ix in enumerate(starts):
        for param_group in optimizer.param_groups:
            param_group["lr"] = get_lr(it)
        x = t.stack([t.from_numpy(corpus[i : i + block_size]) for i in ix])
        y = t.stack([t.from_numpy(corpus[i + 1 : i + 1 + block_size]) for i in ix])
        _logits, loss = model(x, y)
        loss.backward()
        t.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    model.eval()
    return losses + model.generate(t.from_numpy(corpus[None, :9]), 6)[0].tolist()
