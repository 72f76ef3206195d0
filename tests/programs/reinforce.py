"""Policy gradients after pytorch/examples' `reinforce` and `actor_critic`; states, actions and rewards are given."""


def model(t):
    nn, F = t.nn, t.nn.functional

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.affine1 = nn.Linear(4, 24)
            self.action_head = nn.Linear(24, 3)
            self.value_head = nn.Linear(24, 1)

        def forward(self, x):
            x = F.relu(self.affine1(x))
            action_prob = F.softmax(self.action_head(x), dim=-1)
            state_values = self.value_head(x)
            return action_prob, state_values

    return Policy()


def data(rng):
    return rng.standard_normal((8, 12, 4), dtype="float32"), rng.integers(0, 3, (8, 12)), rng.random((8, 12))


def train(t, model, states, actions, rewards, gamma=0.99):
    F, Categorical = t.nn.functional, t.distributions.Categorical
    eps = t.finfo(t.float32).eps
    optimizer = t.optim.Adam(model.parameters(), lr=3e-2)
    losses = []
    for episode in range(len(states)):
        saved, entropies = [], []
        for state, action in zip(states[episode], actions[episode]):
            state = t.from_numpy(state)
            probs, state_value = model(state)
            m = Categorical(probs)
            saved.append((m.log_prob(t.tensor(int(action))), state_value))
            entropies.append(m.entropy())
        R = 0
        returns = []
        for r in rewards[episode][::-1]:
            R = float(r) + gamma * R
            returns.insert(0, R)
        returns = t.tensor(returns)
        returns = (returns - returns.mean()) / (returns.std() + eps)
        policy_losses, value_losses = [], []
        for (log_prob, value), R in zip(saved, returns):
            advantage = R - value.item()
            policy_losses.append(-log_prob * advantage)
            value_losses.append(F.smooth_l1_loss(value, t.tensor([R.item()])))
        optimizer.zero_grad()
        loss = t.stack(policy_losses).sum() + t.stack(value_losses).sum() - 0.01 * t.stack(entropies).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
