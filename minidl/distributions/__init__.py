"""torch.distributions' names, as far as policies and latent variables need them.

`sample` draws without a gradient, `rsample` (where there is one) through the draw; `log_prob` and `entropy` are made of
the engine's ops and differentiable in the parameters and the value.

>>> import minidl
>>> policy = Categorical(logits=minidl.zeros(4))
>>> action = policy.sample()
>>> policy.log_prob(action), policy.entropy()
(tensor(-1.3863), tensor(1.3863))
"""

from minidl.distributions.base import Distribution, Independent
from minidl.distributions.bernoulli import Bernoulli
from minidl.distributions.categorical import Categorical
from minidl.distributions.divergence import kl_divergence
from minidl.distributions.exponential import Exponential
from minidl.distributions.laplace import Laplace
from minidl.distributions.normal import Normal
from minidl.distributions.uniform import Uniform

__all__ = [
    "Bernoulli",
    "Categorical",
    "Distribution",
    "Exponential",
    "Independent",
    "Laplace",
    "Normal",
    "Uniform",
    "kl_divergence",
]
