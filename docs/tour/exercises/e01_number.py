"""Chapter 1: each exercise is a function with its answer, a check, and wrong answers that the check must refuse."""


def product_rule(a, b, dy):
    """The gradients (da, db) of y = a * b, given dy."""
    return dy * b, dy * a


def check_product_rule(f):
    for a, b, dy in [(2.0, 3.0, 1.0), (-1.5, 0.5, 4.0)]:
        found, right = tuple(f(a, b, dy)), (dy * b, dy * a)
        assert found == right, f"a={a}, b={b}, dy={dy}: {found}, not {right}"


def quotient_rule(a, b, dy):
    """The gradients (da, db) of y = a / b, given dy."""
    return dy / b, -dy * a / b**2


def check_quotient_rule(f):
    a, b, dy, h = 2.0, 4.0, 3.0, 1e-6
    da, db = f(a, b, dy)
    tried = dy * ((a + h) / b - (a - h) / b) / (2 * h), dy * (a / (b + h) - a / (b - h)) / (2 * h)
    assert abs(da - tried[0]) < 1e-6, f"da is {da}; trying gives {tried[0]:.6f}"
    assert abs(db - tried[1]) < 1e-6, f"db is {db}; trying gives {tried[1]:.6f}"


def descend(theta, lr, steps):
    """theta after so many steps of theta -= lr * gradient, for the loss theta * theta."""
    for _ in range(steps):
        theta -= lr * 2 * theta
    return theta


def check_descend(f):
    assert f(5.0, 0.01, 0) == 5.0, "no steps, no change"
    found, right = f(5.0, 0.01, 1000), 5.0 * 0.98**1000
    assert abs(found - right) < 1e-12 * right, f"after 1000 steps {found}, not {right}"


WRONG = {
    "product_rule": [lambda a, b, dy: (dy * a, dy * b), lambda a, b, dy: (b, a)],
    "quotient_rule": [lambda a, b, dy: (dy / b, dy * a / b**2), lambda a, b, dy: (1 / b, -a / b**2)],
    "descend": [lambda theta, lr, steps: theta * (1 - lr) ** steps],
}
