"""The classic mistakes of people who train networks: what each looks like, and what the error must say.

Every mistake is a few lines as they are written by someone who does not yet know that they are one. They use names that
torch has too, so the same lines run with both: where torch raises, minidl raises an exception of that type (``torch=``
says where it does otherwise). Behind the type stand the phrases that the message, notes included, must contain: the
path of the module, the shapes, the layer that made the bad tensor, and what to do.
"""

import copy
import sys
import traceback
import types
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import minidl
import minidl.data
import minidl.train

ALIKE = object()  # torch raises the same, or warns as we do
SILENT = None  # torch says nothing


@dataclass
class Mistake:
    made: object
    expected: type
    phrases: tuple
    torchs: object

    def __repr__(self):
        return self.made.__name__


MISTAKES = []


def mistake(expected, *phrases, torch=ALIKE):
    """Enter a mistake into the table: what it raises or warns of, the phrases of the message, what torch does."""

    def enter(made):
        MISTAKES.append(Mistake(made, expected, phrases, torch))
        return made

    return enter


def loader(lib, items, **options):
    return (torch.utils.data if lib is torch else minidl.data).DataLoader(items, **options)


def mlp(lib):
    nn = lib.nn
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def regression(lib):
    """A model whose output is (6, 1), as regression models' outputs are."""
    return lib.nn.Sequential(lib.nn.Linear(3, 1))(lib.ones(6, 3))


# -- shapes in the middle of a model ----------------------------------------------------------------------------------


@mistake(
    RuntimeError, "linear in module Sequential.2", "(5, 16)", "(4, 32)", "16 features", "takes 32",
    "made by Sequential.1 (ReLU())", "from Sequential.0 (Linear(in_features=8, out_features=16",
    "make this layer Linear(16, 4), or let the layer before give 32 features",
)  # fmt: skip
def layers_that_do_not_fit(lib):
    nn = lib.nn
    nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(32, 4))(lib.zeros(5, 8))


@mistake(RuntimeError, "Sequential.1.0", "Linear(in_features=7", "made by Sequential.0 (Linear(in_features=8")
def layers_that_do_not_fit_where_nothing_is_recorded(lib):
    nn = lib.nn
    model = nn.Sequential(nn.Linear(8, 16), nn.Sequential(nn.Linear(7, 4)))
    with lib.no_grad():
        model(lib.zeros(5, 8))


@mistake(
    RuntimeError, "linear in module Net.head", "(5, 6)", "(4, 16)",
    "made by Net.encoder.fc2 (Linear(in_features=16, out_features=6",
)  # fmt: skip
def a_head_that_does_not_fit_its_encoder(lib):
    nn = lib.nn

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 6)

        def forward(self, x):
            return self.fc2(self.fc1(x).relu())

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = Encoder(), nn.Linear(16, 4)

        def forward(self, x):
            return self.head(self.encoder(x))

    Net()(lib.zeros(5, 8))


@mistake(
    RuntimeError, "add in module Net", "(2, 4)", "(2, 5)", "made by Net.long (Linear(in_features=3, out_features=4",
    "made by Net.short (Linear(in_features=3, out_features=5",
)  # fmt: skip
def a_residual_of_another_width(lib):
    nn = lib.nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.long, self.short = nn.Linear(3, 4), nn.Linear(3, 5)

        def forward(self, x):
            return self.long(x) + self.short(x)

    Net()(lib.ones(2, 3))


@mistake(RuntimeError, "Net", "(2, 2, 6, 6)", "(-1, 100)", "144 elements", "made by Net.conv (Conv2d(1, 2")
def a_view_of_the_wrong_size(lib):
    class Net(lib.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = lib.nn.Conv2d(1, 2, 3)

        def forward(self, x):
            return self.conv(x).view(-1, 100)

    Net()(lib.ones(2, 1, 8, 8))


@mistake(
    RuntimeError, "linear in module Sequential.2", "(2, 4, 8, 8)", "takes 256", "nn.Flatten()", "makes (2, 256)",
    "from Sequential.0 (Conv2d(1, 4",
)  # fmt: skip
def no_flatten_before_linear(lib):
    nn = lib.nn
    nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Linear(4 * 8 * 8, 10))(lib.zeros(2, 1, 8, 8))


@mistake(RuntimeError, "(5, 3)", "Linear(3, 8) would take it")
def in_and_out_features_swapped(lib):
    lib.nn.Linear(8, 3)(lib.zeros(5, 3))


@mistake(
    RuntimeError, "conv2d in module Conv2d", "(2, 32, 32, 3)", "(8, 3, 3, 3)", "channels stand last",
    "x.permute(0, 3, 1, 2)", "(2, 3, 32, 32)",
)  # fmt: skip
def channels_last_images(lib):
    lib.nn.Conv2d(3, 8, 3)(lib.zeros(2, 32, 32, 3))


@mistake(RuntimeError, "conv2d in module Conv2d", "(16, 28, 28)", "x.unsqueeze(1)", "(16, 1, 28, 28)")
def grey_images_without_a_channel_axis(lib):
    lib.nn.Conv2d(1, 8, 3)(lib.zeros(16, 28, 28))


@mistake(RuntimeError, "conv2d in module Conv2d", "(28, 28)", "x[None, None]")
def a_grey_image_without_batch_and_channel_axes(lib):
    lib.nn.Conv2d(1, 8, 3)(lib.zeros(28, 28))


@mistake(
    ValueError, "Sequential.1 (BatchNorm2d(8", "(8, 26, 26)", "made by Sequential.0 (Conv2d(3, 8", "x.unsqueeze(0)"
)
def an_image_without_a_batch_axis(lib):
    nn = lib.nn
    nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))(lib.zeros(3, 28, 28))


@mistake(ValueError, "BatchNorm1d", "(2, 4, 3, 3)", "BatchNorm2d, for images (N, C, H, W), takes it")
def batch_norm_of_another_rank(lib):
    lib.nn.BatchNorm1d(4)(lib.ones(2, 4, 3, 3))


@mistake(
    RuntimeError, "batch_norm in module Sequential.1", "(2, 4)", "(8,)", "make num_features 4", "Sequential.0 (Linear"
)
def batch_norm_of_another_width(lib):
    lib.nn.Sequential(lib.nn.Linear(3, 4), lib.nn.BatchNorm1d(8))(lib.ones(2, 3))


@mistake(RuntimeError, "conv2d in module Sequential.2", "(5, 5)", "only 2 x 2 is left", "fewer strides and poolings")
def images_too_small_for_the_network(lib):
    nn = lib.nn
    nn.Sequential(nn.Conv2d(1, 4, 5), nn.MaxPool2d(2), nn.Conv2d(4, 4, 5))(lib.zeros(2, 1, 8, 8))


@mistake(
    TypeError, "linear in module Sequential.1", "a tuple of 2", "made by Sequential.0 (LSTM(3, 4))", "take [0]"
)  # fmt: skip
def an_lstm_in_a_sequential(lib):
    lib.nn.Sequential(lib.nn.LSTM(3, 4), lib.nn.Linear(4, 2))(lib.ones(5, 2, 3))


@mistake(TypeError, "relu in module Sequential.1", "not None", "forget its return", "made by Sequential.0 (Net)")
def a_forward_that_returns_nothing(lib):
    class Net(lib.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = lib.nn.Linear(2, 2)

        def forward(self, x):
            self.fc(x)

    lib.nn.Sequential(Net(), lib.nn.ReLU())(lib.ones(1, 2))


@mistake(TypeError, "linear in module Linear", "not a list", "minidl.tensor(...)")
def a_list_in_place_of_a_tensor(lib):
    lib.nn.Linear(3, 2)([[1.0, 2.0, 3.0]])


# -- losses and labels ------------------------------------------------------------------------------------------------

BROADCASTS = ("(6, 1)", "(6,)", "(made by linear in Sequential.0)", "N x N", "prediction.squeeze(-1)")


@mistake(UserWarning, "mse_loss", *BROADCASTS)
def mse_of_n_by_1_and_n(lib):
    lib.nn.functional.mse_loss(regression(lib), lib.ones(6))


@mistake(UserWarning, "mse_loss in module MSELoss", *BROADCASTS)
def mse_layer_of_n_by_1_and_n(lib):
    lib.nn.MSELoss()(regression(lib), lib.ones(6))


@mistake(UserWarning, "l1_loss", *BROADCASTS)
def l1_of_n_by_1_and_n(lib):
    lib.nn.functional.l1_loss(regression(lib), lib.ones(6))


@mistake(UserWarning, "smooth_l1_loss", *BROADCASTS)
def smooth_l1_of_n_by_1_and_n(lib):
    lib.nn.functional.smooth_l1_loss(regression(lib), lib.ones(6))


@mistake(UserWarning, "huber_loss", *BROADCASTS)
def huber_of_n_by_1_and_n(lib):
    lib.nn.functional.huber_loss(regression(lib), lib.ones(6))


@mistake(ValueError, "binary_cross_entropy", "(6,)", "(6, 1)", "made by sigmoid", "prediction.squeeze(-1)")
def bce_of_n_by_1_and_n(lib):
    lib.nn.functional.binary_cross_entropy(regression(lib).sigmoid(), lib.ones(6))


@mistake(ValueError, "BCEWithLogitsLoss", "(6,)", "(6, 1)", "linear in Sequential.0", "prediction.squeeze(-1)")
def bce_with_logits_of_n_by_1_and_n(lib):
    lib.nn.BCEWithLogitsLoss()(regression(lib), lib.ones(6))


@mistake(RuntimeError, "cross_entropy in module CrossEntropyLoss", "float32 (5,)", "class indices", "target.long()")
def labels_that_are_floats(lib):
    lib.nn.CrossEntropyLoss()(mlp(lib)(lib.zeros(5, 8)), lib.tensor([0.0, 1, 2, 0, 3]))


@mistake(
    RuntimeError, "cross_entropy", "(5, 4)", "linear in Sequential.2", "one-hot", "target.argmax(1)", "target.float()"
)
def one_hot_labels_of_integers(lib):
    one_hot = lib.nn.functional.one_hot(lib.tensor([0, 1, 2, 0, 3]))
    lib.nn.functional.cross_entropy(mlp(lib)(lib.zeros(5, 8)), one_hot)


@mistake(
    RuntimeError, "cross_entropy", "(5, 4)", "linear in Sequential.2", "(5, 1)", "target.squeeze(-1), which is (5,)"
)
def labels_of_shape_n_by_1(lib):
    lib.nn.functional.cross_entropy(mlp(lib)(lib.zeros(5, 8)), lib.zeros(5, 1, dtype=lib.int64))


@mistake(ValueError, "cross_entropy", "(5, 4)", "(3,)", "the batch sizes are 5 and 3")
def labels_of_another_batch(lib):
    lib.nn.functional.cross_entropy(mlp(lib)(lib.zeros(5, 8)), lib.tensor([0, 1, 2]))


@mistake(RuntimeError, "cross_entropy", "(2, 7, 11)", "(2, 7)", "scores.transpose(1, 2)")
def sequences_with_classes_last(lib):
    lib.nn.functional.cross_entropy(lib.zeros(2, 7, 11), lib.zeros(2, 7, dtype=lib.int64))


@mistake(
    IndexError, "target 4 is out of bounds", "(3, 4)", "linear in Sequential.2", "0 .. 3", "counted from 1? target - 1"
)
def labels_counted_from_one(lib):
    lib.nn.functional.cross_entropy(mlp(lib)(lib.zeros(3, 8)), lib.tensor([1, 2, 4]))


@mistake(IndexError, "nll_loss", "target 9 is out of bounds", "(3, 4)", "an output for each class: here 10")
def more_labels_than_classes(lib):
    lib.nn.functional.nll_loss(mlp(lib)(lib.zeros(3, 8)).log_softmax(-1), lib.tensor([0, 2, 9]))


@mistake(IndexError, "target -1 is out of bounds", "ignore_index=-1")
def unlabelled_examples_as_minus_one(lib):
    lib.nn.functional.cross_entropy(mlp(lib)(lib.zeros(3, 8)), lib.tensor([0, 2, -1]))


@mistake(RuntimeError, "floating point", "were they swapped?")
def target_and_prediction_swapped(lib):
    lib.nn.functional.cross_entropy(lib.tensor([1, 2, 2]), lib.zeros(3, 4))


@mistake(UserWarning, "cross_entropy", "softmax in Sequential.1", "the scores before softmax", torch=SILENT)
def softmax_before_cross_entropy(lib):
    nn = lib.nn
    model = nn.Sequential(nn.Linear(8, 4), nn.Softmax(-1))
    nn.CrossEntropyLoss()(model(lib.zeros(3, 8)), lib.tensor([0, 1, 2]))


@mistake(UserWarning, "nll_loss", "softmax", "use log_softmax", torch=SILENT)
def softmax_before_nll_loss(lib):
    lib.nn.functional.nll_loss(mlp(lib)(lib.zeros(3, 8)).softmax(-1), lib.tensor([0, 1, 2]))


@mistake(UserWarning, "BCEWithLogitsLoss", "sigmoid", "the scores before sigmoid", torch=SILENT)
def sigmoid_before_bce_with_logits(lib):
    lib.nn.BCEWithLogitsLoss()(regression(lib).sigmoid(), lib.ones(6, 1))


@mistake(RuntimeError, "BCELoss", "between 0 and 1", "from -2 to 3", "BCEWithLogitsLoss", "made by mul")
def logits_for_bce(lib):
    x = lib.tensor([3.0, -2.0], requires_grad=True)
    lib.nn.BCELoss()(x * 1, lib.tensor([1.0, 0.0]))


@mistake(RuntimeError, "made first, then called", "nn.MSELoss()(prediction, target)")
def a_loss_layer_given_the_tensors_when_it_is_made(lib):
    lib.nn.MSELoss(lib.zeros(4, 3), lib.zeros(4, 3))


@mistake(TypeError, "cross_entropy in module CrossEntropyLoss", "target must be a Tensor, not a list", "text")
def labels_that_are_text(lib):
    for x, y in loader(lib, [(np.zeros(8, np.float32), "cat"), (np.ones(8, np.float32), "dog")], batch_size=2):
        lib.nn.CrossEntropyLoss()(mlp(lib)(x), y)


# -- backward ---------------------------------------------------------------------------------------------------------


@mistake(RuntimeError, "second time", "retain_graph=True", "detach()")
def backward_twice(lib):
    loss = (mlp(lib)(lib.ones(3, 8)) ** 2).sum()
    loss.backward()
    loss.backward()


@mistake(RuntimeError, "in RNN", "second time", "a hidden state", "detach() it between steps")
def a_hidden_state_carried_from_batch_to_batch(lib):
    rnn, h = lib.nn.RNN(3, 4), None
    for _ in range(2):
        y, h = rnn(lib.ones(5, 1, 3), h)
        y.sum().backward()


@mistake(RuntimeError, "(3,) float32", "<exp>", "in-place", "y += 1", "clone()")
def in_place_on_a_saved_tensor(lib):
    x = lib.ones(3, requires_grad=True)
    y = x.exp()
    y += 1
    y.sum().backward()


@mistake(RuntimeError, "leaf", "(4, 3)", "in-place", "no_grad()")
def a_weight_updated_by_hand_without_no_grad(lib):
    layer = lib.nn.Linear(3, 4)
    layer(lib.ones(1, 3)).sum().backward()
    layer.weight -= 0.1 * layer.weight.grad


@mistake(RuntimeError, "(3, 4)", "linear in Sequential.2", ".sum() or .mean()", "reduction='none'")
def backward_from_many_numbers(lib):
    mlp(lib)(lib.ones(3, 8)).backward()


@mistake(RuntimeError, "int64", "1.0 in place of 1", ".float()")
def integers_that_require_grad(lib):
    lib.tensor([1, 2, 3], requires_grad=True)


@mistake(RuntimeError, "does not require gradients", "no_grad()", "frozen")
def backward_of_what_was_computed_under_no_grad(lib):
    with lib.no_grad():
        loss = mlp(lib)(lib.ones(3, 8)).sum()
    loss.backward()


@mistake(RuntimeError, "does not require gradients", "detached", "argmax")
def backward_through_argmax(lib):
    mlp(lib)(lib.ones(3, 8)).argmax(-1).float().mean().backward()


@mistake(RuntimeError, "requires grad", "detach().numpy()", "no_grad()")
def numpy_of_a_recorded_tensor(lib):
    mlp(lib)(lib.ones(3, 8)).numpy()


@mistake(RuntimeError, "requires grad", "detach().numpy()")
def plotting_a_recorded_tensor(lib):
    np.asarray(mlp(lib)(lib.ones(3, 8)))


@mistake(RuntimeError, "3 elements", "(3,)", ".any() or .all()")
def a_tensor_as_a_condition(lib):
    if lib.ones(3) > 0:
        pass


@mistake(RuntimeError, "3 elements", ".mean()", ".tolist()")
def item_of_many(lib):
    lib.ones(3).item()


@mistake(TypeError, "not ndarray", "minidl.tensor(...)")
def an_array_as_gradient(lib):
    lib.ones(3).grad = np.zeros(3)


@mistake(RuntimeError, "(4,)", "(3,)", "a gradient has the shape")
def a_gradient_of_another_shape(lib):
    lib.ones(3).grad = lib.zeros(4)


@mistake(RuntimeError, "leaf", "detach()")
def a_copy_of_what_was_computed(lib):
    copy.deepcopy(mlp(lib)(lib.ones(3, 8)))


# -- optimizers and schedules -----------------------------------------------------------------------------------------


@mistake(ValueError, "empty parameter list", "Net.layers is a plain list of 2 layers", "use nn.ModuleList")
def layers_in_a_plain_list(lib):
    class Net(lib.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [lib.nn.Linear(2, 2), lib.nn.Linear(2, 2)]

    lib.optim.SGD(Net().parameters(), lr=0.1)


@mistake(ValueError, "empty parameter list", "the generator was used up", "list(model.parameters())")
def parameters_counted_before(lib):
    parameters = mlp(lib).parameters()
    sum(p.numel() for p in parameters)
    lib.optim.Adam(parameters)


@mistake(ValueError, "empty parameter list", "ReLU has none")
def a_model_without_parameters(lib):
    lib.optim.Adam(lib.nn.ReLU().parameters())


@mistake(ValueError, "non-leaf", "(3,) float32", "made by mul", "x.detach().requires_grad_()")
def an_optimizer_of_a_computed_tensor(lib):
    lib.optim.SGD([lib.ones(3, requires_grad=True) * 0.01], lr=0.1)


@mistake(TypeError, "the parentheses are missing, model.parameters()")
def parameters_without_parentheses(lib):
    lib.optim.SGD(mlp(lib).parameters, lr=0.1)


@mistake(TypeError, "but got Linear", "model.parameters()")
def an_optimizer_of_a_layer(lib):
    lib.optim.SGD(lib.nn.Linear(2, 2), lr=0.1)


@mistake(TypeError, "but got Parameter", "[tensor]")
def an_optimizer_of_one_tensor(lib):
    lib.optim.SGD(lib.nn.Linear(2, 2).weight, lr=0.1)


@mistake(TypeError, "but got method", "the parentheses are missing, model.parameters()")
def clipping_without_parentheses(lib):
    lib.nn.utils.clip_grad_norm_(mlp(lib).parameters, 1.0)


@mistake(ValueError, "empty parameter list", "Net.w is a plain Tensor that requires grad, (3,)", "use nn.Parameter")
def a_weight_that_is_no_parameter(lib):
    class Net(lib.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = lib.zeros(3, requires_grad=True)

    lib.optim.SGD(Net().parameters(), lr=0.1)


@mistake(ValueError, "Invalid learning rate: -0.1", "down the gradient already")
def a_negative_learning_rate(lib):
    lib.optim.SGD(mlp(lib).parameters(), lr=-0.1)


@mistake(TypeError, "Adam: lr must be a number", "None")
def no_learning_rate(lib):
    lib.optim.Adam(mlp(lib).parameters(), lr=None)


@mistake(TypeError, "Adam: lr must be a number", "'1e-3'")
def a_learning_rate_from_a_file_of_settings(lib):
    lib.optim.Adam(mlp(lib).parameters(), lr="1e-3")


@mistake(TypeError, "betas must be a pair", "0.9")
def one_beta(lib):
    lib.optim.Adam(mlp(lib).parameters(), betas=0.9)


@mistake(ValueError, "Invalid beta parameter at index 1: 1.5")
def a_beta_above_one(lib):
    lib.optim.Adam(mlp(lib).parameters(), betas=(0.9, 1.5))


@mistake(UserWarning, "`lr_scheduler.step()` before `optimizer.step()`", "Call optimizer.step() first")
def the_schedule_before_the_optimizer(lib):
    optimizer = lib.optim.SGD(mlp(lib).parameters(), lr=0.1)
    schedule = lib.optim.lr_scheduler.StepLR(optimizer, 1)
    schedule.step()


@mistake(UserWarning, "a parameter (", "float32", "optimizer.zero_grad()", "pile up", torch=SILENT)
def zero_grad_forgotten(lib):
    model = mlp(lib)
    optimizer = lib.optim.SGD(model.parameters(), lr=0.1)
    with lib.autograd.detect_anomaly():
        for _ in range(2):
            model(lib.ones(3, 8)).sum().backward()
            optimizer.step()


@mistake(UserWarning, "SGD.step()", "none of its 4 parameters has a gradient", "model that gave the loss", torch=SILENT)
def an_optimizer_of_a_model_that_was_replaced(lib):
    model = mlp(lib)
    optimizer = lib.optim.SGD(model.parameters(), lr=0.1)
    model = mlp(lib)
    with lib.autograd.detect_anomaly():
        model(lib.ones(3, 8)).sum().backward()
        optimizer.step()


# -- training and evaluation ------------------------------------------------------------------------------------------


@mistake(ValueError, "Sequential.1 (BatchNorm1d", "(1, 4)", "more than 1 value", "model.eval()", "drop_last=True")
def batch_norm_of_a_single_example_in_training(lib):
    lib.nn.Sequential(lib.nn.Linear(3, 4), lib.nn.BatchNorm1d(4))(lib.ones(1, 3))


@mistake(UserWarning, "dropout in module Sequential.1", "training mode", "no_grad()", "model.eval()", torch=SILENT)
def eval_forgotten_with_dropout(lib):
    model = lib.nn.Sequential(lib.nn.Linear(3, 4), lib.nn.Dropout(0.5))
    with lib.autograd.detect_anomaly(), lib.no_grad():
        model(lib.ones(2, 3))


@mistake(UserWarning, "batch_norm in module Sequential.1", "training mode", "model.eval()", torch=SILENT)
def eval_forgotten_with_batch_norm(lib):
    model = lib.nn.Sequential(lib.nn.Linear(3, 4), lib.nn.BatchNorm1d(4))
    with lib.autograd.detect_anomaly(), lib.no_grad():
        model(lib.ones(2, 3))


@mistake(ValueError, "got 50", "0.5 drops 50 %")
def dropout_in_percent(lib):
    lib.nn.Dropout(50)


# -- building models, saving and loading ------------------------------------------------------------------------------


@mistake(AttributeError, "before Module.__init__() call", "first line of Net.__init__", "super().__init__()")
def no_super_init(lib):
    class Net(lib.nn.Module):
        def __init__(self):
            self.fc = lib.nn.Linear(2, 2)

    Net()


@mistake(AttributeError, "'Net' object", "super().__init__()")
def no_super_init_and_no_layers(lib):
    class Net(lib.nn.Module):
        def __init__(self):
            self.width = 3

        def forward(self, x):
            return x * self.width

    Net()(lib.ones(1))


@mistake(NotImplementedError, "[Net]", '"forward"')
def forward_misspelt(lib):
    class Net(lib.nn.Module):
        def foward(self, x):
            return x

    Net()(lib.ones(1))


@mistake(TypeError, "the class itself", "ReLU(...)")
def a_class_in_place_of_a_layer(lib):
    lib.nn.Sequential(lib.nn.Linear(2, 2), lib.nn.ReLU)


@mistake(TypeError, "list is not a Module", "Sequential(*layers)")
def a_list_for_a_sequential(lib):
    lib.nn.Sequential([lib.nn.Linear(2, 2), lib.nn.ReLU()])


@mistake(TypeError, "relu", "is not a Module", "such as ReLU()")
def a_function_in_a_sequential(lib):
    lib.nn.Sequential(lib.nn.Linear(2, 2), lib.nn.functional.relu)


@mistake(TypeError, "'numpy.ndarray' as parameter 'weight'", "nn.Parameter(...)", "weight.copy_(...)")
def an_array_as_weight(lib):
    lib.nn.Linear(2, 2).weight = np.ones((2, 2))


@mistake(
    RuntimeError, 'Missing key(s) in state_dict: "2.bias"', 'Unexpected key(s) in state_dict: "extra"',
    "size mismatch for 0.weight", "[9, 8]", "[16, 8]", "the sizes it was saved with",
)  # fmt: skip
def a_checkpoint_of_another_model(lib):
    state = dict(mlp(lib).state_dict())
    del state["2.bias"]
    state.update({"extra": lib.zeros(1), "0.weight": lib.zeros(9, 8)})
    mlp(lib).load_state_dict(state)


@mistake(RuntimeError, 'begin with "module."', "DataParallel", 'k.removeprefix("module.")')
def a_checkpoint_of_data_parallel(lib):
    mlp(lib).load_state_dict({f"module.{k}": v for k, v in mlp(lib).state_dict().items()})


@mistake(RuntimeError, "a whole checkpoint", 'state_dict["model"]')
def a_whole_checkpoint_as_state_dict(lib):
    mlp(lib).load_state_dict({"epoch": 3, "model": mlp(lib).state_dict()})


@mistake(RuntimeError, "a part of the saved one", 'k.startswith("encoder.")')
def a_part_of_a_checkpoint(lib):
    mlp(lib).load_state_dict({f"encoder.{k}": v for k, v in mlp(lib).state_dict().items()})


@mistake(RuntimeError, "a part of this one", "model.0")
def a_checkpoint_of_a_part(lib):
    lib.nn.Sequential(mlp(lib)).load_state_dict(mlp(lib).state_dict())


@mistake(RuntimeError, "[3, 5]", "[5, 3]", "transposed", "weight.T")
def a_transposed_weight(lib):
    lib.nn.Linear(3, 5).load_state_dict({"weight": lib.zeros(3, 5), "bias": lib.zeros(5)})


@mistake(TypeError, "dict-like", "minidl.load(path)")
def a_file_name_as_state_dict(lib):
    mlp(lib).load_state_dict("model.safetensors")


@mistake(TypeError, "dict-like", "state_dict()")
def a_model_as_state_dict(lib):
    mlp(lib).load_state_dict(mlp(lib))


# -- dtypes, indices, data --------------------------------------------------------------------------------------------


@mistake(RuntimeError, "Sequential.0", "float64", "float32", "NumPy's numbers are float64", "x.float()")
def numpy_data_for_a_model(lib):
    mlp(lib)(lib.from_numpy(np.zeros((5, 8))))


@mistake(RuntimeError, "float64 @ float32", "x.float()")
def a_product_of_two_dtypes(lib):
    lib.ones(2, 3, dtype=lib.float64) @ lib.ones(3, 2)


@mistake(RuntimeError, "conv2d in module Conv2d", "uint8", "float32", "x.float() / 255")
def images_of_bytes(lib):
    lib.nn.Conv2d(1, 2, 3)(lib.ones(1, 1, 5, 5, dtype=lib.uint8))


@mistake(IndexError, "Sequential.0 (Embedding(10, 4))", "index 10", "10 rows", "num_embeddings")
def a_token_outside_the_vocabulary(lib):
    lib.nn.Sequential(lib.nn.Embedding(10, 4))(lib.tensor([1, 5, 10]))


@mistake(RuntimeError, "Embedding(10, 4)", "float32", ".long()")
def tokens_that_are_floats(lib):
    lib.nn.Embedding(10, 4)(lib.tensor([1.0, 5.0]))


@mistake(TypeError, "None", "collate_fn")
def a_dataset_that_returns_none(lib):
    list(loader(lib, [None, None], batch_size=2))


@mistake(RuntimeError, "default_collate", "(2,)", "(3,)", "collate_fn")
def a_dataset_of_different_shapes(lib):
    list(loader(lib, [np.zeros(2), np.zeros(3)], batch_size=2))


# -- recurrent layers and attention -----------------------------------------------------------------------------------


@mistake(RuntimeError, "LSTM(3, 4)", "(1, 2, 4)", "[1, 3, 4]", "a batch of 3", "drop_last=True")
def a_hidden_state_of_another_batch(lib):
    state = lib.zeros(1, 3, 4), lib.zeros(1, 3, 4)
    lib.nn.LSTM(3, 4)(lib.ones(5, 2, 3), state)


@mistake(RuntimeError, "GRU(3, 4)", "(1, 5, 4)", "[1, 2, 4]", "batch_first=False", "to be used with batch_first=True")
def batch_first_forgotten(lib):
    lib.nn.GRU(3, 4)(lib.ones(2, 5, 3), lib.zeros(1, 2, 4))


@mistake(RuntimeError, "(1, 2, 4)", "[2, 1, 4]", "h.transpose(0, 1)")
def a_state_with_batch_first(lib):
    lib.nn.GRU(3, 4, batch_first=True)(lib.ones(2, 5, 3), lib.zeros(2, 1, 4))


@mistake(RuntimeError, "Expected 3, got 5", "(2, 3, 5)", "x.transpose(1, -1)")
def features_and_steps_swapped(lib):
    lib.nn.LSTM(3, 4)(lib.ones(2, 3, 5))


@mistake(TypeError, "pair (h, c)", "y, (h, c) = ...", torch=IndexError)  # torch indexes the tensor; ours is a TypeError
def one_state_for_an_lstm(lib):
    lib.nn.LSTM(3, 4)(lib.ones(5, 2, 3), lib.zeros(1, 2, 4))


@mistake(AssertionError, "embed_dim (10) must be divisible by num_heads (3)", "1, 2, 5, 10")
def heads_that_do_not_divide(lib):
    lib.nn.MultiheadAttention(10, 3)


@mistake(AssertionError, "embedding dimension of 8, but got 6", "(3, 5, 6)")
def attention_of_another_width(lib):
    x = lib.ones(3, 5, 6)
    lib.nn.MultiheadAttention(8, 2)(x, x, x)


@mistake(RuntimeError, "attn_mask", "(3, 5)", "(5, 5)", "key_padding_mask")
def padding_as_attention_mask(lib):
    x = lib.ones(3, 5, 8)
    lib.nn.MultiheadAttention(8, 2, batch_first=True)(x, x, x, attn_mask=lib.zeros(3, 5, dtype=lib.bool))


@mistake(AssertionError, "key_padding_mask", "(3, 5)", "(5, 3)", "pass batch_first=True?")
def a_padding_mask_without_batch_first(lib):
    x = lib.ones(3, 5, 8)
    lib.nn.MultiheadAttention(8, 2)(x, x, x, key_padding_mask=lib.zeros(3, 5, dtype=lib.bool))


@mistake(AssertionError, "attn_mask", "int64", ".bool()", "True hides")
def a_mask_of_integers(lib):
    x = lib.ones(3, 5, 8)
    lib.nn.MultiheadAttention(8, 2, batch_first=True)(x, x, x, attn_mask=lib.ones(5, 5, dtype=lib.int64))


# -- the table is walked ----------------------------------------------------------------------------------------------


def said(error):
    """What a user reads below the traceback, notes included."""
    return "".join(traceback.format_exception_only(error))


@pytest.mark.parametrize("case", MISTAKES, ids=repr)
def test_the_message_says_where_what_and_how_to_mend_it(case):
    if issubclass(case.expected, Warning):
        with pytest.warns(case.expected) as seen:
            case.made(minidl)
        text = str(seen[0].message)
        assert seen[0].filename == __file__, "the warning points to the user's line"
    else:
        with pytest.raises(case.expected) as caught:
            case.made(minidl)
        text = said(caught.value)
    assert [phrase for phrase in case.phrases if phrase not in text] == [], text


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
@pytest.mark.parametrize("case", MISTAKES, ids=repr)
def test_torch_raises_the_same_type(case):
    if case.torchs is SILENT:
        case.made(torch)
    elif issubclass(case.expected, Warning):
        with pytest.warns(case.expected):
            case.made(torch)
    else:
        theirs_type = case.expected if case.torchs is ALIKE else case.torchs
        with pytest.raises(theirs_type) as theirs:
            case.made(torch)
        if case.torchs is ALIKE:
            with pytest.raises(case.expected) as ours:
                case.made(minidl)
            assert isinstance(ours.value, type(theirs.value)), (type(ours.value), type(theirs.value))


# -- what only minidl has ---------------------------------------------------------------------------------------------


def test_fit_names_a_loss_that_is_nan_and_the_learning_rate_that_is_too_large():
    x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    model = minidl.nn.Linear(1, 1)
    optimizer = minidl.optim.SGD(model.parameters(), lr=1e12)
    with pytest.raises(minidl.train.NonFiniteLoss) as caught:
        minidl.train.fit(
            model, (x, 3 * x), optimizer=optimizer, loss=minidl.nn.MSELoss(), epochs=9, progress=False, seed=0
        )
    text = said(caught.value)
    for phrase in (
        "the loss is",
        "at step",
        "lower learning rate than 1e+12",
        "clip_norm",
        "detect_anomaly",
        "epoch 2, batch 1",
    ):
        assert phrase in text


def test_fit_tells_why_a_model_has_nothing_to_train():
    class Net(minidl.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = (minidl.nn.Linear(2, 2),)

    optimizer = minidl.optim.SGD(mlp(minidl).parameters(), lr=0.1)
    with pytest.raises(ValueError, match="no parameters to train; Net.layers is a plain tuple of 1 layers"):
        minidl.train.fit(Net(), (np.ones((2, 2)), np.ones((2, 2))), optimizer=optimizer, loss=minidl.nn.MSELoss())


def test_evaluate_and_predict_need_no_eval():
    model = minidl.nn.Sequential(minidl.nn.Linear(3, 4), minidl.nn.Dropout(0.5))
    with minidl.autograd.detect_anomaly():
        minidl.train.predict(model, np.ones((2, 3), np.float32))
        minidl.train.evaluate(model, (np.ones((2, 3), np.float32), np.zeros((2, 4), np.float32)), minidl.nn.MSELoss())
    assert model.training


def test_a_summary_tells_of_layers_that_are_not_registered():
    class Net(minidl.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = minidl.nn.Linear(2, 2)
            self.heads = {"a": minidl.nn.Linear(2, 2)}
            self.scales = [minidl.nn.Parameter(minidl.ones(2))]

    text = str(Net().summary())
    assert "Not counted: Net.heads is a plain dict of 1 layers" in text
    assert "nn.ModuleDict" in text
    assert "Net.scales is a plain list of 1 parameters" in text
    assert "Not counted" not in str(mlp(minidl).summary())


def test_inputs_on_two_devices(monkeypatch):
    """As CuPy's arrays are: of another type, which NumPy's functions refuse."""

    class ndarray:
        __module__, __array_ufunc__ = "cupy", None
        shape, ndim, dtype, device = (3, 4), 2, np.dtype("float32"), types.SimpleNamespace(id=0)

    monkeypatch.setitem(sys.modules, "cupy", types.ModuleType("cupy"))
    with pytest.raises(RuntimeError) as caught:
        minidl.tensors.wrap(ndarray()) + minidl.ones(3, 4)
    for phrase in ("add:", "(3, 4) on cuda:0 and (3, 4) on cpu", "x.to('cuda:0')", "device=x.device"):
        assert phrase in said(caught.value)


# -- how it is made ---------------------------------------------------------------------------------------------------


def test_nothing_of_it_runs_while_all_is_well(monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("words were looked for, but nothing was wrong")

    from minidl.autograd import blame
    from minidl.ops import hints

    for page in (blame, hints):
        for name, value in vars(page).items():
            if callable(value) and getattr(value, "__module__", "") == page.__name__ and not isinstance(value, type):
                monkeypatch.setattr(page, name, never)
    nn = minidl.nn
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    optimizer = minidl.optim.Adam(model.parameters())
    for _ in range(2):
        loss = nn.CrossEntropyLoss()(model(minidl.randn(4, 1, 8, 8)), minidl.tensor([0, 1, 2, 0]))
        loss = (
            loss + nn.MSELoss()(minidl.ones(3), minidl.ones(3)) + nn.BCEWithLogitsLoss()(minidl.ones(3), minidl.ones(3))
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with pytest.raises(AssertionError, match="words were looked for"):
        model(minidl.randn(4, 2, 8, 8))


def test_advice_is_not_misled_by_sizes_that_agree_by_accident():
    nn = minidl.nn
    with pytest.raises(RuntimeError, match=r"make this layer Linear\(128, 10\)") as caught:
        nn.Linear(64, 10)(minidl.ones(64, 128))  # 64 is the batch size, too
    assert "transpose" not in said(caught.value)
    with pytest.raises(RuntimeError, match="make this layer's in_channels 16") as caught:
        nn.Conv2d(8, 4, 3)(minidl.ones(2, 16, 8, 8))  # 8 is the width, too
    assert "permute" not in said(caught.value)
    with pytest.raises(RuntimeError, match=r"x.permute\(0, 3, 1, 2\)"):
        nn.Conv2d(16, 4, 3)(minidl.ones(2, 8, 8, 16))


def test_an_error_is_told_of_once_however_deep_the_model():
    nn = minidl.nn
    model = nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 6))))
    with pytest.raises(RuntimeError) as caught:
        model(minidl.ones(2, 3))
    assert said(caught.value).count("in Sequential.0.0.1 (") == 1
    error = caught.value

    class Again(nn.Module):
        def forward(self):
            raise error

    with pytest.raises(RuntimeError):
        Again()()
    assert "Again" not in said(error)


def test_what_came_from_another_model_is_not_blamed_on_this_one():
    nn = minidl.nn
    encoder = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    decoder = nn.Sequential(nn.Linear(6, 7), nn.Linear(7, 8))
    with pytest.raises(RuntimeError) as caught:
        decoder(encoder(minidl.ones(2, 3)))
    text = said(caught.value)
    assert "(2, 5) float32, given to Sequential as it is (made by linear in Sequential.1)" in text
    assert "Linear(in_features=7" not in text


def test_a_layer_of_ones_own_names_its_steps_and_the_layer_before():
    class Mix(minidl.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = minidl.nn.Parameter(minidl.ones(7, 2))

        def forward(self, x):
            return x.tanh().flatten(1) @ self.weight

    with pytest.raises(RuntimeError) as caught:
        minidl.nn.Sequential(minidl.nn.Linear(3, 4), Mix())(minidl.ones(2, 5, 3))
    text = said(caught.value)
    assert "input (2, 20) float32, made by tanh, " in text
    assert "in the forward of Sequential.1" in text
    assert "from Sequential.0 (Linear(in_features=3, out_features=4" in text


def test_words_that_cannot_be_made_do_not_hide_the_error():
    class Odd(minidl.nn.Linear):
        def __repr__(self):
            raise LookupError("no name")

    with pytest.raises(RuntimeError, match="3 features") as caught:
        Odd(4, 2)(minidl.ones(2, 3))
    assert said(caught.value).rstrip().endswith("in Odd")


def test_functions_outside_of_modules_say_who_made_their_inputs():
    model = mlp(minidl)
    with pytest.raises(RuntimeError) as caught:
        model(minidl.ones(5, 8)) @ minidl.ones(3, 2)
    assert "input (5, 4) float32, made by linear in Sequential.2" in said(caught.value)


def test_exceptions_of_the_users_own_pass_as_they_are():
    class Enough(Exception):
        pass

    class Net(minidl.nn.Module):
        def forward(self, x):
            raise Enough

    with pytest.raises(Enough) as caught:
        Net()(minidl.ones(2))
    assert not hasattr(caught.value, "__notes__")
    assert vars(caught.value) == {}


def test_a_used_gradient_that_was_cleared_is_no_mistake():
    """Neither set_to_none=False nor zeros written by hand are taken for a forgotten zero_grad."""
    model = mlp(minidl)
    optimizer = minidl.optim.SGD(model.parameters(), lr=0.1)
    with minidl.autograd.detect_anomaly():
        for clear in (
            lambda: None,
            optimizer.zero_grad,
            lambda: optimizer.zero_grad(set_to_none=False),
            by_hand(model),
        ):
            clear()
            model(minidl.ones(3, 8)).sum().backward()
            model(minidl.ones(3, 8)).sum().backward()  # gradients of two batches added up on purpose
            optimizer.step()


def by_hand(model):
    def clear():
        for p in model.parameters():
            p.grad.zero_()

    return clear
